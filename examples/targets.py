"""Targets of other kinds, multi-label and a teacher's: python examples/targets.py."""

import torch
from torch import Tensor

from mmlib import MultiMixBCELoss, MultiMixLoss


def share_among_classes(multi_hot: Tensor) -> Tensor:
    """Turn multi-hot rows (m, c) into distributions: an example's classes share it. A row of zeros stays one."""
    return multi_hot / multi_hot.sum(dim=1, keepdim=True).clamp(min=1)


def blend_with_teacher(labels: Tensor, teacher_logits: Tensor, gamma: float = 0.5) -> Tensor:
    """Return targets (1 - γ) y + γ p' for knowledge distillation, where p' is the teacher's prediction."""
    predicted = teacher_logits.detach().softmax(dim=1)
    return torch.lerp(torch.nn.functional.one_hot(labels, predicted.shape[1]).to(predicted), predicted, gamma)


def main() -> None:
    """Print the loss of one mini-batch for each kind of targets."""
    torch.manual_seed(0)
    logits, teacher_logits, labels = torch.randn(8, 5), torch.randn(8, 5), torch.randint(5, (8,))
    multi_hot = (torch.rand(8, 5) < 0.4).float()
    weighted = MultiMixLoss(weight=torch.tensor([1.0, 1.0, 1.0, 2.0, 4.0]), label_smoothing=0.1)
    print(f"weighted classes, smoothed labels: {weighted(logits, labels):.4f}")
    print(f"a teacher's targets: {MultiMixLoss()(logits, blend_with_teacher(labels, teacher_logits)):.4f}")
    print(f"several labels, one softmax: {MultiMixLoss()(logits, share_among_classes(multi_hot)):.4f}")
    print(f"several labels, a sigmoid each: {MultiMixBCELoss()(logits, multi_hot):.4f}")


if __name__ == "__main__":
    main()
