"""Pre-activation residual networks."""

from torch import Tensor, nn

from mmlib._typing import Float
from mmlib.experiments.models.classifier import Encoder


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


class ActivatedShortcutBlock(PreActBlock):
    """Pre-activation block whose identity shortcut starts from the activated input, as the other shortcuts do.

    Source: released code of AlignMixup (Venkataramanan et al., CVPR 2022).
    """

    def forward(self, x: Float[Tensor, "m inputs h w"]) -> Float[Tensor, "m outputs h2 w2"]:
        activated = self.norm1(x).relu()
        residual = self.conv2(self.norm2(self.conv1(activated)).relu())
        return residual + (activated if self.shortcut is None else self.shortcut(activated))


def preact_resnet(
    channels: int, width: int, blocks: tuple[int, ...], *, stem: int | None = None, stem_stride: int = 1
) -> nn.Sequential:
    """Pre-activation ResNet for small images: a 3x3 stem, then stages that each halve the map and double the width.

    It ends without batch normalisation and ReLU, so features can be negative: in this, and in nothing else, it is
    not He et al.'s but follows the released code of AlignMixup.

    Args:
        channels: channels of the images.
        width: channels of the first stage.
        blocks: blocks in each stage; with stride 1 in the stem, four stages turn 32x32 into 4x4.
        stem: channels of the first convolution; by default `width`.
        stem_stride: stride of the first convolution.
    """
    inputs = stem or width
    convolution = nn.Conv2d(channels, inputs, 3, stem_stride, padding=1, bias=False)
    return nn.Sequential(convolution, *_stages(PreActBlock, inputs, width, blocks))


def preact_resnet_alignmixup(channels: int, width: int, blocks: tuple[int, ...]) -> nn.Sequential:
    """Pre-activation ResNet of AlignMixup's released code.

    It has batch normalisation and ReLU after the stem, takes every shortcut from the activated input and ends without
    batch normalisation and ReLU.

    Args:
        channels, width, blocks: as in `preact_resnet`.
    """
    convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    stem = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(stem, *_stages(ActivatedShortcutBlock, width, width, blocks))


def _stages(block: type[PreActBlock], inputs: int, width: int, blocks: tuple[int, ...]) -> list[nn.Sequential]:
    stages = []
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        strides = [1 if stage == 0 else 2] + [1] * (count - 1)
        widths = [inputs] + [outputs] * (count - 1)
        stages.append(nn.Sequential(*(block(w, outputs, stride) for w, stride in zip(widths, strides))))
        inputs = outputs
    return stages


def _small_stages(size: int) -> int:
    return max(1, (size // 4).bit_length())


def preactresnet_small(channels: int, size: int) -> Encoder:
    """Width 16, one block a stage, as many stages as turn the images into a 4x4 map (8x8: two, 32x32: four)."""
    stages = _small_stages(size)
    return Encoder(preact_resnet(channels, 16, (1,) * stages), 16 * 2 ** (stages - 1))


def preactresnet_small_s2(channels: int, size: int) -> Encoder:
    """`preactresnet_small` with stride 2 in the stem and one stage less (32x32: three), at a fifth of the cost."""
    stages = _small_stages(size // 2)
    return Encoder(preact_resnet(channels, 16, (1,) * stages, stem_stride=2), 16 * 2 ** (stages - 1))


def preactresnet_small_alignmixup(channels: int, size: int) -> Encoder:
    """`preactresnet_small` with the stem and the shortcuts of AlignMixup's released code."""
    stages = _small_stages(size)
    return Encoder(preact_resnet_alignmixup(channels, 16, (1,) * stages), 16 * 2 ** (stages - 1))


def preactresnet18(channels: int, size: int) -> Encoder:
    """PreActResNet-18: 512x4x4 on 32x32 images, 512x8x8 on 64x64 (He et al., ECCV 2016)."""
    return Encoder(preact_resnet(channels, 64, (2, 2, 2, 2)), 512)


def preactresnet18_alignmixup(channels: int, size: int) -> Encoder:
    """PreActResNet-18 of AlignMixup's released code (by authors of MultiMix): 512x4x4 on 32x32 images."""
    return Encoder(preact_resnet_alignmixup(channels, 64, (2, 2, 2, 2)), 512)


def wrn16_8(channels: int, size: int) -> Encoder:
    """Wide ResNet of depth 16 and widening factor 8: 512x8x8 on 32x32 images (Zagoruyko & Komodakis, BMVC 2016)."""
    encoder = preact_resnet(channels, 128, (2, 2, 2), stem=16)
    return Encoder(encoder.extend([nn.BatchNorm2d(512), nn.ReLU()]), 512)
