"""Models by name."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from mmlib._checks import check_choice
from mmlib.experiments.models.classifier import Classifier, Encoder
from mmlib.experiments.models.preact_resnet import (
    preactresnet18,
    preactresnet18_alignmixup,
    preactresnet_small,
    preactresnet_small_alignmixup,
    preactresnet_small_s2,
    wrn16_8,
)
from mmlib.experiments.models.resnet import resnet50
from mmlib.experiments.models.vit import vit_small_16, vit_tiny

MODELS: dict[str, Callable[[int, int], Encoder]] = {
    "preactresnet-small": preactresnet_small,
    "preactresnet-small-s2": preactresnet_small_s2,
    "preactresnet-small-alignmixup": preactresnet_small_alignmixup,
    "preactresnet18": preactresnet18,
    "preactresnet18-alignmixup": preactresnet18_alignmixup,
    "wrn16-8": wrn16_8,
    "resnet50": resnet50,
    "vit-tiny": vit_tiny,
    "vit-small-16": vit_small_16,
}


@runtime_checkable
class ImageData(Protocol):
    """Properties of a data set that decide a network's shape and normalisation."""

    channels: int
    size: int
    classes: int
    moments: tuple[tuple[float, ...], tuple[float, ...]]


def build(name: str, dataset: ImageData) -> Classifier:
    """Make a freshly initialised classifier for a data set's images.

    Args:
        name: a key of `MODELS`.
        dataset: the data set; only its channels, size, classes and moments (mean and std per channel) are read.
    """
    check_choice("model", name, MODELS)
    encoder, embedding_size = MODELS[name](dataset.channels, dataset.size)
    return Classifier(encoder, embedding_size, dataset.classes, *dataset.moments)
