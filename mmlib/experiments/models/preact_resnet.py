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
