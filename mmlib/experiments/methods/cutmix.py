"""CutMix: a box of every image is replaced by its partner's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Labels, Targets
from mmlib.experiments.methods._pairs import draw_pairs, mix_pairs
from mmlib.experiments.methods.mixup import Mixup


class CutMix(Mixup):
    """On some mini-batches a box, the same in all images, is pasted from their partners; the others stay as they are.

    The label keeps the share of the pixels that the image keeps.

    Args:
        alpha: of λ ~ Beta(α, α); the box, before the border clips it, has the area 1 - λ (published recipe: 1).
        probability: of pasting a box; plain cross-entropy otherwise (published recipe: 0.5 on CIFAR, 1 on ImageNet).

    Source: Yun et al. (ICCV 2019).
    """

    def __init__(self, classifier: nn.Module, *, alpha: float = 1.0, probability: float = 0.5, seed: int = 0) -> None:
        super().__init__(classifier, alpha=alpha, seed=seed)
        check_range(most=1, probability=probability)
        self.probability = probability

    def forward(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        if self.chance(self.probability):
            return super().forward(images, labels)
        return F.cross_entropy(self.classifier(images), labels)

    def mix(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Images with their partner's box, and targets by the share of the pixels."""
        partners, lam = draw_pairs(self, len(images), self.alpha)
        size = images.shape[-1]
        centre = torch.randint(size, (2,), generator=self.cpu_generator).tolist()
        rows, columns = (interval(size, lam, at) for at in centre)
        mixed = images.clone()
        mixed[:, :, rows, columns] = images[partners, :, rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / size**2
        return mixed, mix_pairs(self.one_hot(labels), partners, 1 - pasted)


def interval(size: int, lam: float, centre: int) -> slice:
    """The pixels along one side of a box that has the share 1 - λ of a square image, clipped at its border.

    Source: Yun et al. (ICCV 2019); the released code rounds half a side down to whole pixels, and so do we.

    >>> interval(32, 0.75, 20), interval(32, 0.75, 2)
    (slice(12, 28, None), slice(0, 10, None))
    """
    half = int(size * (1 - lam) ** 0.5 / 2)
    return slice(max(0, centre - half), min(size, centre + half))
