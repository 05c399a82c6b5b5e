"""ResNet-50."""

from importlib import import_module
from types import ModuleType

from torch import nn

from mmlib.experiments.models.classifier import Encoder


def resnet50(channels: int, size: int) -> Encoder:
    """torchvision's ResNet-50, its stem as one stage: 2048x7x7 on 224x224 images in colour (He et al., CVPR 2016)."""
    if channels != 3:
        raise ValueError(f"channels of the images must be 3 for resnet50, got {channels}")
    resnet = _require("torchvision", "resnet50").models.resnet50()
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    return Encoder(nn.Sequential(stem, resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4), 2048)


def _require(name: str, model: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{model} needs {name}, which cannot be imported: {error}") from error
