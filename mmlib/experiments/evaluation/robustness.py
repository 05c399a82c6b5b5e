"""Adversarial attacks in pixel space: images moved within an ℓ∞ ball so that the classifier errs."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._checks import check_int, check_range
from mmlib._typing import Float, Int
from mmlib.experiments.data.split import Split
from mmlib.experiments.models.classifier import eval_mode
from mmlib.mixing import accumulation_dtype


def fgsm(
    classifier: nn.Module, images: Float[Tensor, "m channels h w"], labels: Int[Tensor, " m"], epsilon: float = 8 / 255
) -> Float[Tensor, "m channels h w"]:
    """Fast gradient sign method: every pixel moves by epsilon in the direction that raises the cross-entropy.

    It is one step of `pgd`, whose arguments it shares.

    Source: Goodfellow et al. (ICLR 2015); epsilon 8/255 is the published setting.

    >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = classifier[1].weight.data.copy_(torch.eye(2))
    >>> fgsm(classifier, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), epsilon=0.25)
    tensor([[[[0.2500, 0.7500]]]])
    """
    return pgd(classifier, images, labels, epsilon, step=epsilon, steps=1)


def pgd(
    classifier: nn.Module,
    images: Float[Tensor, "m channels h w"],
    labels: Int[Tensor, " m"],
    epsilon: float = 4 / 255,
    step: float = 2 / 255,
    steps: int = 10,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "m channels h w"]:
    """Projected gradient descent: steps along the gradient's sign, each clipped to the ℓ∞ ball and to [0, 1].

    The classifier is attacked in evaluation mode and left in its own; its parameters' gradients are not touched.

    Args:
        classifier: images in [0, 1] to logits, its normalisation inside; its parameters may be of lower precision
            than the images.
        epsilon: radius of the ball, in units of the pixels' range.
        step: how far a pixel moves at a time.
        generator: of a start drawn uniformly from the ball; on the images' device. By default the attack starts
            at the images and draws nothing (our choice).

    Returns:
        The attacked images.

    Raises:
        ValueError: a negative epsilon or step, or fewer than one step.

    Source: Madry et al. (ICLR 2018); epsilon 4/255 and step 2/255 are the published setting, 10 steps our choice.
    """
    check_range(epsilon=epsilon, step=step)
    check_int(1, steps=steps)
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    attacked = images.detach()
    if generator is not None:
        start = torch.empty_like(images).uniform_(-epsilon, epsilon, generator=generator)
        attacked = start.add_(images).clamp(low, high)
    with eval_mode(classifier):
        for _ in range(steps):
            gradient = _loss_gradient(classifier, attacked, labels)
            attacked = gradient.sign().mul_(step).add_(attacked).clamp_(low, high)
    return attacked


@torch.enable_grad()
def _loss_gradient(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    # In double precision: p - y of a confident classifier rounds to zero in less, and the attack loses its way.
    logits = classifier(images.to(next(classifier.parameters()).dtype)).double()
    return torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), images)[0]


def adversarial_error(
    classifier: nn.Module, split: Split, attack: Callable[[nn.Module, Tensor, Tensor], Tensor], batch_size: int = 500
) -> float:
    """Top-1 error on the attacked images of a split, in percent; in batches, on the classifier's device.

    Args:
        attack: of the classifier, images and labels, such as `fgsm` or `functools.partial(pgd, epsilon=8 / 255)`.

    >>> from mmlib import data, models
    >>> digits = data.load("digits")
    >>> 0 <= adversarial_error(models.build("preactresnet-small", digits), digits.test[:100], fgsm) <= 100
    True
    """
    parameter, wrong = next(classifier.parameters()), 0
    dtype = accumulation_dtype(parameter.dtype)
    with eval_mode(classifier):
        for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size)):
            images, labels = images.to(parameter.device, dtype) / 255, labels.to(parameter.device)
            attacked = attack(classifier, images, labels)
            with torch.no_grad():
                wrong += (classifier(attacked.to(parameter.dtype)).argmax(dim=1) != labels).sum()
    return 100 * int(wrong) / len(split)
