"""Classifier: images -> encoder -> feature map (m, d, h, w) -> its mean, the embedding (m, d) -> head -> logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mmlib._typing import Float, Images


class Encoder(NamedTuple):
    """An encoder and the size of its embeddings.

    Args:
        stages: a sequence of stages, images to feature map.
        embedding_size: d, the channels of the feature map.
    """

    stages: nn.Sequential
    embedding_size: int


@runtime_checkable
class ImageClassifier(Protocol):
    """Interface that training methods need of a network; `Classifier` has it."""

    encoder: nn.Sequential
    head: nn.Linear

    def __call__(self, images: Images) -> Float[Tensor, "m c"]:
        """Logits."""

    def normalise(self, images: Images) -> Images:
        """Inputs of the encoder."""

    def features(self, images: Images) -> Float[Tensor, "m d h w"]:
        """Feature map of images."""

    def embed(self, images: Images) -> Float[Tensor, "m d"]:
        """Embeddings of images."""

    def classify(self, features: Float[Tensor, "m d h w"]) -> Float[Tensor, "m c"]:
        """Logits of a feature map."""


# A base, since Python 3.12 looks for the attributes of an interface on the class alone, where a module has none.
class Classifier(nn.Module, ImageClassifier):
    """An encoder and a linear head, with the data's normalisation inside: images are pixels in [0, 1].

    Args:
        encoder: a sequence of stages, images to feature map.
        embedding_size: d, the channels of the feature map.
        classes: c.
        mean, std: the training images' statistics per channel.

    >>> from mmlib.experiments.models.preact_resnet import preact_resnet
    >>> classifier = Classifier(preact_resnet(3, 16, (1, 1, 1, 1)), 128, classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> classifier(torch.rand(8, 3, 32, 32)).shape, classifier.features(torch.rand(8, 3, 32, 32)).shape
    (torch.Size([8, 10]), torch.Size([8, 128, 4, 4]))
    """

    def __init__(
        self, encoder: nn.Sequential, embedding_size: int, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(embedding_size, classes)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def normalise(self, images: Images) -> Images:
        """Inputs of the encoder: every channel of the training images with mean 0 and variance 1."""
        return (images - self.mean) / self.std

    def features(self, images: Images) -> Float[Tensor, "m d h w"]:
        """Feature map of images, on which dense interpolation works."""
        return self.encoder(self.normalise(images))

    def embed(self, images: Images) -> Float[Tensor, "m d"]:
        """Embeddings: the feature map's mean over positions, the last layer before the head."""
        return self.features(images).mean(dim=(2, 3))

    def classify(self, features: Float[Tensor, "m d h w"]) -> Float[Tensor, "m c"]:
        """Logits of a feature map, such as a mixed one."""
        return self.head(features.mean(dim=(2, 3)))

    def forward(self, images: Images) -> Float[Tensor, "m c"]:
        """Logits."""
        return self.head(self.embed(images))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must spare beside biases and norms: position embeddings."""
        return {name for name, _ in self.named_parameters() if name.endswith("pos_embed")}


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside the block; afterwards every submodule has its own mode again, also after an error."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield network.eval()
    finally:
        for module, training in modes:
            module.training = training
