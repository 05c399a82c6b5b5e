"""Networks: images -> encoder -> feature map (m, d, h, w) -> its mean, the embedding (m, d) -> head -> logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmlib.annotations import Float
from mmlib.data import Dataset, Split

Encoder = tuple[nn.Sequential, int]  # and d, its embeddings' size


class Classifier(nn.Module):
    """An encoder and a linear head, with the data's normalisation inside: images are pixels in [0, 1].

    Args:
        encoder: a sequence of stages, images to feature map.
        embedding_size: d, the channels of the feature map.
        classes: c.
        mean, std: the training images' statistics per channel.

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

    def normalise(self, images: Float[Tensor, "m channels size size"]) -> Float[Tensor, "m channels size size"]:
        """What the encoder takes: every channel of the training images with mean 0 and variance 1."""
        return (images - self.mean) / self.std

    def features(self, images: Float[Tensor, "m channels size size"]) -> Float[Tensor, "m d h w"]:
        """The feature map that dense interpolation works on."""
        return self.encoder(self.normalise(images))

    def embed(self, images: Float[Tensor, "m channels size size"]) -> Float[Tensor, "m d"]:
        """The embedding: the feature map's mean over positions, the last layer before the head."""
        return self.features(images).mean(dim=(2, 3))

    def classify(self, features: Float[Tensor, "m d h w"]) -> Float[Tensor, "m c"]:
        """Logits of a feature map, such as a mixed one."""
        return self.head(features.mean(dim=(2, 3)))

    def forward(self, images: Float[Tensor, "m channels size size"]) -> Float[Tensor, "m c"]:
        """Logits."""
        return self.head(self.embed(images))


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after its batch normalisation and ReLU, around a shortcut.

    Source: He et al. (ECCV 2016), full pre-activation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "m inputs h w"]) -> Float[Tensor, "m outputs h2 w2"]:
        activated = self.norm1(x).relu()
        residual = self.conv2(self.norm2(self.conv1(activated)).relu())
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def preact_resnet(channels: int, width: int, blocks: tuple[int, ...], *, stem: int | None = None) -> nn.Sequential:
    """Encoder of pre-activation blocks; every stage after the first halves the map and doubles the width.

    It ends without batch normalisation and ReLU, as the authors' PreActResNet does, so features can be negative.

    Args:
        channels: of the images.
        width: channels of the first stage.
        blocks: blocks in each stage; four stages turn 32x32 into 4x4.
        stem: channels of the first convolution; by default `width`.
    """
    inputs = stem or width
    stages = [nn.Conv2d(channels, inputs, 3, padding=1, bias=False)]
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        strides = [1 if stage == 0 else 2] + [1] * (count - 1)
        of_stage = (PreActBlock(inputs if i == 0 else outputs, outputs, s) for i, s in enumerate(strides))
        stages.append(nn.Sequential(*of_stage))
        inputs = outputs
    return nn.Sequential(*stages)


def preactresnet_small(channels: int, size: int) -> Encoder:
    """Width 16, one block a stage, as many stages as turn the images into a 4x4 map (8x8: two, 32x32: four)."""
    stages = max(1, (size // 4).bit_length())
    return preact_resnet(channels, 16, (1,) * stages), 16 * 2 ** (stages - 1)


def preactresnet18(channels: int, size: int) -> Encoder:
    """PreActResNet-18: 512x4x4 on 32x32 images, 512x8x8 on 64x64 (He et al., ECCV 2016)."""
    return preact_resnet(channels, 64, (2, 2, 2, 2)), 512


def wrn16_8(channels: int, size: int) -> Encoder:
    """Wide ResNet of depth 16 and widening factor 8: 512x8x8 on 32x32 images (Zagoruyko & Komodakis, BMVC 2016)."""
    encoder = preact_resnet(channels, 128, (2, 2, 2), stem=16)
    return encoder.extend([nn.BatchNorm2d(512), nn.ReLU()]), 512


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


class PatchEmbedding(nn.Module):
    """A vision transformer's first stage: images to tokens, one a patch in reading order, with their places added."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.patches, self.places = vit.patch_embed, vit.pos_embed

    def forward(self, images: Float[Tensor, "m channels size size"]) -> Float[Tensor, "m r d"]:
        return self.patches(images) + self.places


class FeatureMap(nn.Module):
    """A vision transformer's last stage: tokens, normalised and each at its place."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.norm, self.grid = vit.norm, vit.patch_embed.grid_size

    def forward(self, tokens: Float[Tensor, "m r d"]) -> Float[Tensor, "m d h w"]:
        return self.norm(tokens).mT.unflatten(2, self.grid)


def vision_transformer(channels: int, size: int, *, patch: int, width: int, depth: int, heads: int) -> Encoder:
    """timm's vision transformer as an encoder: each of its blocks is a stage, each patch token a position.

    It has no class token: the embedding is the mean of the patch tokens (our choice).

    Args:
        channels, size: of the images; `size` is a multiple of `patch`.
        patch: pixels on a side.
        width: d, of every token.
        depth, heads: blocks, and heads of attention in each.

    Raises:
        ValueError: timm cannot be imported.

    Source: Dosovitskiy et al. (ICLR 2021).

    >>> encoder, _ = vision_transformer(3, 32, patch=8, width=64, depth=2, heads=2)
    >>> encoder(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 64, 4, 4])
    """
    bare = {"class_token": False, "global_pool": "", "num_classes": 0}
    whole = _package("timm", "a ViT").models.VisionTransformer(
        img_size=size, patch_size=patch, in_chans=channels, embed_dim=width, depth=depth, num_heads=heads, **bare
    )
    return nn.Sequential(PatchEmbedding(whole), *whole.blocks, FeatureMap(whole)), width


def vit_tiny(channels: int, size: int) -> Encoder:
    """4x4 patches of a quarter of the side, for images of 8 to 64 pixels; width 64, 4 blocks, 4 heads (our choice)."""
    check_multiple(size, 4)
    return vision_transformer(channels, size, patch=size // 4, width=64, depth=4, heads=4)


def vit_small_16(channels: int, size: int) -> Encoder:
    """ViT-S/16, timm's `vit_small_patch16_224` at the images' size: 384x14x14 on 224x224."""
    check_multiple(size, 16)
    return vision_transformer(channels, size, patch=16, width=384, depth=12, heads=6)


def check_multiple(size: int, of: int) -> None:
    """Refuse images that are not whole patches."""
    if size % of:
        raise ValueError(f"size of the images is {size}; this ViT takes a multiple of {of} pixels")


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


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside the block, and afterwards the mode before it, also after an error."""
    training = network.training
    try:
        yield network.eval()
    finally:
        network.train(training)


class Predictions(NamedTuple):
    """What a classifier makes of a split."""

    embeddings: Float[Tensor, "n d"]
    logits: Float[Tensor, "n c"]


@torch.no_grad()
def predict(classifier: Classifier, split: Split, batch_size: int = 500) -> Predictions:
    """Embeddings and logits of every image of a split, in evaluation mode, on the CPU."""
    like = next(classifier.parameters())
    with evaluating(classifier):
        parts = [classifier.embed(x.to(like.device).to(like.dtype) / 255) for x in split.images.split(batch_size)]
        embeddings = torch.cat(parts)
        return Predictions(embeddings.cpu(), classifier.head(embeddings).cpu())
