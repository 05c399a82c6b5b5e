"""Models by name."""

from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.models.preact_resnet import preactresnet18, preactresnet_small, wrn16_8
from mmlib.experiments.models.resnet import resnet50
from mmlib.experiments.models.vit import vit_small_16, vit_tiny

MODELS = {
    "preactresnet-small": preactresnet_small,
    "preactresnet18": preactresnet18,
    "wrn16-8": wrn16_8,
    "resnet50": resnet50,
    "vit-tiny": vit_tiny,
    "vit-small-16": vit_small_16,
}


def build(name: str, dataset: Dataset) -> Classifier:
    """A freshly initialised classifier for the data set's images; `name` is one of `MODELS`."""
    encoder, embedding_size = MODELS[name](dataset.channels, dataset.size)
    return Classifier(encoder, embedding_size, dataset.classes, *dataset.moments)
