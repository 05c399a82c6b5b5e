"""Vision transformers."""

from torch import Tensor, nn

from mmlib._typing import Float
from mmlib.experiments.models.classifier import Encoder
from mmlib.experiments.models.resnet import _package


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
