"""ERM, which mixes nothing, and input mixup, which mixes pairs of images."""

from torch import nn

from mmlib._typing import Images, Labels, Targets
from mmlib.experiments.methods._pairs import draw_pairs, mix_pairs
from mmlib.experiments.methods.base import Method
from mmlib.sampling import check_alpha


class ERM(Method):
    """Empirical risk minimisation: cross-entropy of the examples as they are."""


class Mixup(Method):
    """Input mixup: every image is mixed with another of the mini-batch, one λ ~ Beta(α, α) for all.

    Source: Zhang et al. (ICLR 2018).
    """

    def __init__(self, classifier: nn.Module, *, alpha: float = 1.0, seed: int = 0) -> None:
        super().__init__(classifier, seed=seed)
        check_alpha(1, 2, alpha)
        self.alpha = alpha

    def mix(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Images and targets, each with its partner's."""
        partners, lam = draw_pairs(self, len(images), self.alpha)
        return mix_pairs(images, partners, lam), mix_pairs(self.one_hot(labels), partners, lam)
