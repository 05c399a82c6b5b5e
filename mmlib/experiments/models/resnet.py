"""ResNet-50."""

from importlib import import_module
from types import ModuleType

from torch import nn

from mmlib.experiments.models.classifier import Encoder


def resnet50(channels: int, size: int) -> Encoder:
    """torchvision's ResNet-50, its stem as one stage: 2048x7x7 on 224x224 images in colour (He et al., CVPR 2016)."""
    if channels != 3:
        raise ValueError(f"channels of the images are {channels}; resnet50 takes 3")
    whole = _package("torchvision", "resnet50").models.resnet50()
    stem = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool)
    return nn.Sequential(stem, whole.layer1, whole.layer2, whole.layer3, whole.layer4), 2048


def _package(name: str, model: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"model is {model}; it takes {name}, which cannot be imported: {error}") from error
