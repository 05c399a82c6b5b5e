"""Vision transformers."""

from torch import Tensor, nn

from mmlib._typing import Float
from mmlib.experiments.models.classifier import Encoder
from mmlib.experiments.models.resnet import _require


class PatchEmbedding(nn.Module):
    """First stage of a vision transformer: images to tokens, one a patch in reading order, plus position embeddings."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.patch_embed, self.pos_embed = vit.patch_embed, vit.pos_embed

    def forward(self, images: Float[Tensor, "m channels size size"]) -> Float[Tensor, "m r d"]:
        return self.patch_embed(images) + self.pos_embed


class FeatureMap(nn.Module):
    """Last stage of a vision transformer: normalised tokens, arranged as a map."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.norm, self.grid = vit.norm, vit.patch_embed.grid_size

    def forward(self, tokens: Float[Tensor, "m r d"]) -> Float[Tensor, "m d h w"]:
        return self.norm(tokens).mT.unflatten(2, self.grid)


def vision_transformer(channels: int, size: int, *, patch: int, width: int, depth: int, heads: int) -> Encoder:
    """timm's vision transformer as an encoder: each of its blocks is a stage, each patch token a position.

    It has no class token: the embedding is the mean of the patch tokens (our choice).

    Args:
        channels: channels of the images.
        size: pixels on a side of the images, a multiple of `patch`.
        patch: pixels on a side of a patch.
        width: d, the size of a token.
        depth: number of blocks.
        heads: heads of attention in each block.

    Raises:
        ValueError: timm cannot be imported.

    Source: Dosovitskiy et al. (ICLR 2021).

    >>> import torch
    >>> encoder, _ = vision_transformer(3, 32, patch=8, width=64, depth=2, heads=2)
    >>> encoder(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 64, 4, 4])
    """
    vit = _require("timm", "a ViT").models.VisionTransformer(
        img_size=size,
        patch_size=patch,
        in_chans=channels,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        class_token=False,
        global_pool="",
        num_classes=0,
    )
    return Encoder(nn.Sequential(PatchEmbedding(vit), *vit.blocks, FeatureMap(vit)), width)


def vit_tiny(channels: int, size: int) -> Encoder:
    """4x4 patches of a quarter of the side, for images of 8 to 64 pixels; width 64, 4 blocks, 4 heads (our choice)."""
    _check_divisible(size, 4)
    return vision_transformer(channels, size, patch=size // 4, width=64, depth=4, heads=4)


def vit_small_16(channels: int, size: int) -> Encoder:
    """ViT-S/16, timm's `vit_small_patch16_224` at the images' size: 384x14x14 on 224x224."""
    _check_divisible(size, 16)
    return vision_transformer(channels, size, patch=16, width=384, depth=12, heads=6)


def _check_divisible(size: int, patch: int) -> None:
    if size % patch:
        raise ValueError(f"size of the images must be a multiple of {patch} pixels for this ViT, got {size}")
