"""Targets of other kinds: what the criteria take is, for every example, how much each class counts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib import mix, sample_mixing_weights


def weighted_and_smoothed(labels: Tensor, weight: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Targets (m, c) that make of a criterion what the arguments of the same names make of `F.cross_entropy`.

    Args:
        labels: classes, (m,).
        weight: of every class, (c,); ones leave the classes alike.
    """
    one_hot = F.one_hot(labels, len(weight)).to(weight.dtype)
    smoothed = (1 - label_smoothing) * one_hot + label_smoothing / len(weight)
    return smoothed * weight / weight[labels].mean()


def one_of_several(hot: Tensor) -> Tensor:
    """Multi-hot rows (m, c) as distributions: an example's classes share it. One without a class has no share."""
    return hot / hot.sum(dim=1, keepdim=True).clamp(min=1)


def each_by_itself(logits: Tensor, hot: Tensor, n: int = 1000) -> Tensor:
    """Mean binary cross-entropy of n mixtures, every class a decision of its own: multi-hot rows as they are."""
    weights = sample_mixing_weights(n, len(logits), device=logits.device, dtype=logits.dtype)
    return F.binary_cross_entropy_with_logits(mix(weights, logits), mix(weights, hot))


def main() -> None:
    """Print the targets of one example in each form."""
    labels, weight = torch.tensor([0, 2]), torch.tensor([1.0, 1.0, 2.0])
    print(weighted_and_smoothed(labels, weight, label_smoothing=0.1))
    print(one_of_several(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])))


if __name__ == "__main__":
    main()
