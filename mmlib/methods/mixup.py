"""ERM, which mixes nothing, and input mixup, which mixes pairs of images."""

import torch
from torch import Tensor, nn

from mmlib.annotations import Float, Images, Int, Labels, Targets
from mmlib.methods.objective import Objective
from mmlib.mixing import check_mixture, sample_weights


class ERM(Objective):
    """Empirical risk minimisation: cross-entropy of the examples as they are."""


class Mixup(Objective):
    """Input mixup: every image is mixed with another of the mini-batch, one λ ~ Beta(α, α) for all.

    Source: Zhang et al. (ICLR 2018).
    """

    def __init__(self, classifier: nn.Module, *, alpha: float = 1.0, seed: int = 0) -> None:
        super().__init__(classifier, seed=seed)
        check_mixture(1, 2, alpha)
        self.alpha = alpha

    def mix(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Images and targets, each with its partner's."""
        partners, λ = draw_pairs(self, len(images), self.alpha)
        return mix_pairs(images, partners, λ), mix_pairs(self.one_hot(labels), partners, λ)


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
