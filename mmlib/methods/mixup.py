"""ERM, which mixes nothing, and input mixup, which mixes pairs of images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.annotations import Float, Int
from mmlib.methods.objective import Objective
from mmlib.mixing import check_mixture, sample_weights


class ERM(Objective):
    """Empirical risk minimisation: cross-entropy of the examples as they are."""

    def forward(self, images: Float[Tensor, "m channels size size"], labels: Int[Tensor, " m"]) -> Float[Tensor, ""]:
        return F.cross_entropy(self.classifier(images), labels)


class Mixup(Objective):
    """Input mixup: every image is mixed with another of the mini-batch, one λ ~ Beta(α, α) for all.

    Source: Zhang et al. (ICLR 2018).
    """

    def __init__(self, classifier: nn.Module, *, alpha: float = 1.0, seed: int = 0) -> None:
        super().__init__(classifier, seed=seed)
        check_mixture(1, 2, alpha)
        self.alpha = alpha

    def forward(self, images: Float[Tensor, "m channels size size"], labels: Int[Tensor, " m"]) -> Float[Tensor, ""]:
        return mixup_loss(self, images, self.one_hot(labels), self.alpha)


def mixup_loss(
    objective: Objective,
    images: Float[Tensor, "m channels size size"],
    targets: Float[Tensor, "m c"],
    alpha: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of λ x + (1 - λ) x' against λ y + (1 - λ) y', x' a permutation of x."""
    partners, λ = draw_pairs(objective, len(images), alpha)
    return F.cross_entropy(objective.classifier(mix_pairs(images, partners, λ)), mix_pairs(targets, partners, λ))


def draw_pairs(objective: Objective, m: int, alpha: float) -> tuple[Int[Tensor, " m"], float]:
    """Every example's partner, a permutation of the mini-batch, and the λ ~ Beta(α, α) that all of them keep."""
    # Beta(α, α) is the Dirichlet distribution of two examples.
    λ = sample_weights(1, 2, alpha, generator=objective.host_generator, dtype=torch.double)[0, 0].item()
    return torch.randperm(m, generator=objective.generator, device=objective.generator.device), λ


def mix_pairs(values: Float[Tensor, "m *axes"], partners: Int[Tensor, " m"], λ: float) -> Float[Tensor, "m *axes"]:
    """Interpolate: λ v + (1 - λ) v', v' the partners' values.

    >>> mix_pairs(torch.tensor([0.0, 4.0]), torch.tensor([1, 0]), 0.75)
    tensor([1., 3.])
    """
    # As a number λ would be part of the graph under `torch.compile`, which would compile every step anew.
    return torch.lerp(values[partners], values, λ * values.new_ones(()))
