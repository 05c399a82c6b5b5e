"""Adversarial attacks in pixel space: images moved within an ℓ∞ ball so that the classifier errs."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmlib._checks import can_read, check_index_range, check_int, check_range, check_tensor
from mmlib._typing import Float, Integer
from mmlib.experiments.data.split import Split
from mmlib.experiments.models.classifier import eval_mode
from mmlib.mixing import accumulation_dtype


def fgsm(
    classifier: nn.Module,
    images: Float[Tensor, "m channels h w"],
    labels: Integer[Tensor, " m"],
    epsilon: float = 8 / 255,
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
    labels: Integer[Tensor, " m"],
    epsilon: float = 4 / 255,
    step: float = 2 / 255,
    steps: int = 10,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "m channels h w"]:
    """Projected gradient descent: steps along the gradient's sign, each clipped to the ℓ∞ ball and to [0, 1].

    The classifier is attacked in evaluation mode and left in its own mode. The gradients of its parameters are
    neither computed nor touched.

    Args:
        classifier: images in [0, 1] to logits, its normalisation inside; its parameters may be of lower precision
            than the images.
        images: pixels in [0, 1].
        labels: the true classes.
        epsilon: radius of the ball, in units of the pixels' range.
        step: how far a pixel moves at a time.
        steps: how often.
        generator: source of a start drawn uniformly from the ball, on the images' device. By default the attack
            starts at the images and draws nothing (our choice).

    Returns:
        The attacked images.

    Raises:
        TypeError: images that are no floating-point numbers, or labels that are no integers.
        ValueError: no images, images outside [0, 1], not a label for each, on the CPU a label that is none of the
            classifier's classes, a negative epsilon or step, or fewer than one step.

    Source: Madry et al. (ICLR 2018); epsilon 4/255 and step 2/255 are the published setting, 10 steps our choice.
    """
    check_range(epsilon=epsilon, step=step)
    check_int(1, steps=steps)
    check_tensor("images", images, ("m", "channels", "h", "w"), "floating-point")
    check_tensor("labels", labels, (len(images),), "integer")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images must be in [0, 1], got values from {low:g} to {high:g}")
    # Tensors made in inference mode take part in no gradient: the attack works on copies, outside that mode.
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(classifier):
        images, labels, state = images.detach().clone(), labels.clone(), _without_gradients(classifier)
        low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
        attacked = images
        if generator is not None:
            start = torch.empty_like(images).uniform_(-epsilon, epsilon, generator=generator)
            attacked = start.add_(images).clamp(low, high)
        for _ in range(steps):
            gradient = _loss_gradient(classifier, state, attacked, labels)
            attacked = gradient.sign().mul_(step).add_(attacked).clamp_(low, high)
    return attacked


def _without_gradients(classifier: nn.Module) -> dict[str, Tensor]:
    """Parameters that ask for no gradient, so that nothing is kept for one, and copies of what inference mode made."""
    tensors = chain(classifier.named_parameters(), classifier.named_buffers())
    kept = ((name, x) for name, x in tensors if isinstance(x, nn.Parameter) or x.is_inference())
    return {name: x.detach().clone() if x.is_inference() else x.detach() for name, x in kept}


def _loss_gradient(classifier: nn.Module, state: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the cross-entropy of each image, up to a positive factor for every image."""
    images = images.detach().requires_grad_()
    dtype = next(classifier.parameters(), images).dtype
    logits = functional_call(classifier, state, (images.to(dtype),))
    if can_read(labels):
        check_index_range("labels", labels, logits.shape[1], "classes")
    return torch.autograd.grad(_log_odds_against(logits, labels).sum(), images)[0].contiguous()


def _log_odds_against(logits: Float[Tensor, "m c"], labels: Integer[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Logarithm of the odds against the true class y, log Σ_{j≠y} exp(z_j) - z_y, in double precision.

    The cross-entropy is the softplus of it, so the two gradients in the logits have one direction: that of the
    cross-entropy is (1 - p_y) times this one. The factor is what rounds to zero where the classifier is sure of
    itself, and the attack's direction is lost with it. This gradient has entries that sum to 1 and to -1.

    >>> _log_odds_against(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    tensor([-2.], dtype=torch.float64)
    """
    logits, true = logits.double(), labels.long().unsqueeze(1)
    others = logits.scatter(1, true, -torch.inf)
    return others.logsumexp(dim=1) - logits.gather(1, true).squeeze(1)


def adversarial_error(
    classifier: nn.Module, split: Split, attack: Callable[[nn.Module, Tensor, Tensor], Tensor], batch_size: int = 128
) -> float:
    """Top-1 error on the attacked images of a split, in percent; in batches, on the classifier's device.

    Args:
        attack: of the classifier, images and labels, such as `fgsm` or `functools.partial(pgd, epsilon=8 / 255)`.
        batch_size: images attacked at a time; an attack holds less than a step of training with as many.

    >>> from mmlib.experiments import data, models
    >>> digits = data.load("digits")
    >>> 0 <= adversarial_error(models.build("preactresnet-small", digits), digits.test[:100], fgsm) <= 100
    True
    """
    check_int(1, batch_size=batch_size)
    if not len(split):
        raise ValueError("split must have images, got none")
    parameter, wrong = next(classifier.parameters()), 0
    dtype = accumulation_dtype(parameter.dtype)
    with eval_mode(classifier):
        for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size)):
            images, labels = images.to(parameter.device, dtype) / 255, labels.to(parameter.device)
            attacked = attack(classifier, images, labels)
            with torch.no_grad():
                wrong += (classifier(attacked.to(parameter.dtype)).argmax(dim=1) != labels).sum()
    return 100 * int(wrong) / len(split)
