"""Pairs of examples of a mini-batch, and their interpolation."""

import torch
from torch import Tensor

from mmlib._typing import Float, Int
from mmlib.experiments.methods.base import Method
from mmlib.sampling import sample_mixing_weights


def draw_pairs(objective: Method, m: int, alpha: float) -> tuple[Int[Tensor, " m"], float]:
    """Every example's partner, a permutation of the mini-batch, and the λ ~ Beta(α, α) that all of them keep."""
    # Beta(α, α) is the Dirichlet distribution of two examples.
    lam = sample_mixing_weights(1, 2, alpha, generator=objective.cpu_generator, dtype=torch.double)[0, 0].item()
    return torch.randperm(m, generator=objective.generator, device=objective.generator.device), lam


def mix_pairs(values: Float[Tensor, "m *axes"], partners: Int[Tensor, " m"], lam: float) -> Float[Tensor, "m *axes"]:
    """Interpolate: λ v + (1 - λ) v', v' the partners' values.

    >>> mix_pairs(torch.tensor([0.0, 4.0]), torch.tensor([1, 0]), 0.75)
    tensor([1., 3.])
    """
    # As a number λ would be part of the graph under `torch.compile`, which would compile every step anew.
    return torch.lerp(values[partners], values, lam * values.new_ones(()))
