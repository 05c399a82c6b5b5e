"""CutMix: a box of every image is replaced by its partner's."""

import torch
from torch import Tensor

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Labels, Targets
from mmlib.experiments.methods.base import cross_entropy
from mmlib.experiments.methods.mixup import Mixup
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.transforms import cutmix_box, draw_pairs, mix_pairs


class CutMix(Mixup):
    """On some mini-batches a box, the same in all images, is pasted from their partners; the others stay as they are.

    The label keeps the share of the pixels that the image keeps.

    Args:
        classifier: the network to train.
        alpha: α of λ ~ Beta(α, α); before the border clips it, the box has the area 1 - λ (published recipe: 1).
        probability: probability of pasting a box (published recipe: 0.5 on CIFAR, 1 on ImageNet); the other
            mini-batches get plain cross-entropy.
        seed: seed of all draws of the method.

    Source: Yun et al. (ICCV 2019).
    """

    def __init__(
        self, classifier: ImageClassifier, *, alpha: float = 1.0, probability: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__(classifier, alpha=alpha, seed=seed)
        check_range(high=1, probability=probability)
        self.probability = probability

    def compute_loss(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Cross-entropy of the mini-batch, with or without boxes."""
        if self.flip_coin(self.probability):
            return super().compute_loss(images, labels)
        return cross_entropy(self.classifier(images), labels)

    def mix_batch(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Images with their partner's box, and targets by the share of the pixels."""
        partners, lam = draw_pairs(len(images), self.alpha, generator=self.cpu_generator, device=images.device)
        size = images.shape[-1]
        row, column = torch.randint(size, (2,), generator=self.cpu_generator, device="cpu").tolist()
        rows, columns = cutmix_box((size, size), lam, (row, column))
        mixed = images.clone()
        mixed[:, :, rows, columns] = images[:, :, rows, columns][partners]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / size**2
        return mixed, mix_pairs(self.one_hot(labels), partners, 1 - pasted)
