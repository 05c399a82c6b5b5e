"""MultiMix around one example each."""

import torch
from torch import Tensor

from mmlib._checks import check_range
from mmlib._typing import Alpha, Float
from mmlib.experiments.methods.multimix import ExplicitWeightsMultiMix
from mmlib.experiments.models.classifier import ImageClassifier


class AnchoredMultiMix(ExplicitWeightsMultiMix):
    """MultiMix whose mixtures lie around one example each: λ = w e_i + (1 - w) μ, μ ~ Dirichlet(α) over all m.

    All examples take turns as the anchor e_i. An example's own label then weighs w² + (1 - w)² / (1 + mα) above the
    weight that all get, at least w² for any m.

    Args:
        classifier: the network to train.
        anchor_weight: w, or the interval (low, high) from which every mixture draws its own.
        num_mixtures, alpha, probability, mixup_alpha, alpha_is_total, seed: as in `MultiMix`.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        anchor_weight: float | tuple[float, float] = 0.5,
        num_mixtures: int = 1000,
        alpha: Alpha = (0.5, 2.0),
        probability: float = 0.5,
        mixup_alpha: float = 1.0,
        alpha_is_total: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            classifier,
            num_mixtures=num_mixtures,
            alpha=alpha,
            probability=probability,
            mixup_alpha=mixup_alpha,
            alpha_is_total=alpha_is_total,
            seed=seed,
        )
        ends = anchor_weight if isinstance(anchor_weight, tuple | list) else (anchor_weight, anchor_weight)
        for end in ends:
            check_range(high=1, anchor_weight=end)
        if len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError(
                f"anchor_weight must be a number or a pair (low, high) with low <= high, got {anchor_weight!r}"
            )
        self.anchor_weight = tuple(ends)

    def weights(self, m: int, like: Tensor) -> Float[Tensor, "n m"]:
        """Λ: row k has w of its weight on example k % m, and the rest drawn over all m."""
        others, n = super().weights(m, like), self.num_mixtures
        w = others.new_empty(n, 1).uniform_(*self.anchor_weight, generator=self.generator)
        k = torch.arange(n, device=others.device)
        anchors = torch.zeros_like(others)
        anchors[k, k % m] = 1
        return torch.lerp(others, anchors, w)
