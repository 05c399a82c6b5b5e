"""The computation behind the functions of `mmlib.functional` and the criteria of `mmlib.losses`.

Each row of Λ is divided by its sum over the examples that take part. An example that does not (its label is
`ignore_index`, its position is masked) has weight 0 there, and a mixture or position without any example is no term
of the loss and does not count in its mean.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmlib import _backend
from mmlib._autograd import LabelLossCpu, SoftTargetLoss, finite_logits, mark_infinite, needs_grad
from mmlib._backend import without_autocast
from mmlib._checks import (
    can_read,
    check_choice,
    check_int,
    check_logits,
    check_range,
    check_tensor,
    check_type,
    check_values,
)
from mmlib._typing import Alpha
from mmlib.mixing import accumulation_dtype, clamp_attention, mix
from mmlib.sampling import check_alpha, iter_mixing_weights

DEFAULT_NUM_MIXTURES = 1000

# The loss, or the loss and Λ where that is asked for. `Any` lets type checkers pass what is done with either.
LossAndWeights = Tensor | Any


def _breaks_graph_to_draw(function: Callable) -> Callable:
    """Exclude `function` from `torch.compile` graphs if it has to draw from a generator, which they cannot hold.

    `torch.compiler.disable` is applied lazily because importing Dynamo is slow.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        if torch.compiler.is_compiling() and any(isinstance(x, Mixtures) and x.generator is not None for x in args):
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call


class Mixtures(NamedTuple):
    """The source of the mixing weights Λ: given, or how many to draw and from which distribution."""

    num_mixtures: int | None
    alpha: Alpha
    alpha_is_total: bool
    generator: Generator | None
    mixing_weights: Tensor | None = None

    def check(self, m: int) -> None:
        """Check the arguments of a loss of m examples; rows that do not sum to 1 are found on the CPU only."""
        n, weights = self.num_mixtures, self.mixing_weights
        check_type("alpha_is_total", self.alpha_is_total, bool)
        check_type("generator", self.generator, Generator | None)
        self.interval(m)
        if n is not None:
            check_int(1, num_mixtures=n)
        if weights is None:
            return
        check_tensor("mixing_weights", weights, (n or "n", m), "floating-point")
        if can_read(weights):
            # Rows in half precision sum to 1 within the rounding of their largest entry.
            tolerance, sums = max(1e-3, torch.finfo(weights.dtype).eps), weights.detach().sum(1, dtype=torch.double)
            error = (sums - 1).abs().max().item()
            if not error <= tolerance:
                raise ValueError(f"mixing_weights must have rows that sum to 1, got one that is {error:g} off")
            check_values("mixing_weights", weights, -tolerance)

    def interval(self, m: int) -> tuple[float, float]:
        """The interval that the concentration of each of m examples is drawn from."""
        low, high = check_alpha(self.alpha)
        return (low / m, high / m) if self.alpha_is_total else (low, high)

    def blocks(self, logits: Tensor) -> Iterator[Tensor]:
        """Draw Λ for the examples of `logits`, in single precision at least, a block of rows at a time."""
        n, m = int(self.num_mixtures or DEFAULT_NUM_MIXTURES), logits.shape[0]
        alpha, device, dtype = self.interval(m), logits.device, accumulation_dtype(logits.dtype)
        return iter_mixing_weights(n, m, alpha, generator=self.generator, device=device, dtype=dtype)


class Terms(NamedTuple):
    """How classes count in a cross-entropy, which labels are ignored, and how the mixtures' losses are reduced."""

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"
    pos_weight: Tensor | None = None

    def check(self, c: int | None = None) -> None:
        """Check the arguments, the class weights for c classes."""
        check_type("ignore_index", self.ignore_index, int)
        check_range(0, 1, label_smoothing=self.label_smoothing)
        check_choice("reduction", self.reduction, ("mean", "sum", "none"))
        for name, weight in {"weight": self.weight, "pos_weight": self.pos_weight}.items():
            if weight is not None:
                check_tensor(name, weight, (c or "c",))
                check_values(name, weight)

    def coefficients(self, like: Tensor, c: int) -> tuple[Tensor, Tensor]:
        """What an example's own label and what smoothing contributes to each class, (c,) each, in the type of like."""
        smoothing = float(self.label_smoothing)
        weight = like.new_ones(c) if self.weight is None else self.weight.to(like.dtype)
        return (1 - smoothing) * weight, smoothing / c * weight

    def label_masses(
        self, classes: Tensor, masses: Tensor | None, c: int, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """What each label counts in its class, (m, r), and what smoothing adds to every class, (c,).

        Args:
            classes: of the labels, (m, r).
            masses: what each example counts, (m, r), or None for 1.

        Returns:
            None for both where a label counts what its example does and nothing is added.
        """
        if self.weight is None and not self.label_smoothing:
            return None, None
        own, smoothing = self.coefficients(torch.empty((), dtype=dtype, device=classes.device), c)
        return own[classes] if masses is None else masses * own[classes], smoothing


class LossTargets(NamedTuple):
    """The targets of a loss, read once.

    Args:
        given: class indices or distributions, per example or per position.
        classes: class indices (m, r) if that is what is given; where left out, 0 on the CPU.
        left_out: True for what takes no part, (m, r), None if that is known to be nothing.
        class_range: the lowest and the highest of `classes`, if they can be read.
    """

    given: Tensor
    classes: Tensor | None
    left_out: Tensor | None
    class_range: tuple[int, int] | None = None

    def check(self, shape: tuple[int, ...], ignore_index: int) -> None:
        """Refuse targets that do not fit logits of a shape, and on the CPU class indices out of range."""
        (m, *positions, c), got = shape, tuple(self.given.shape)
        if c < 2:
            raise ValueError(
                f"logits must have at least 2 classes, got {tuple(shape)}; MultiMixBCELoss takes a single one"
            )
        if self.classes is None and got not in ((m, c), tuple(shape)):
            per_position = f", {(m, *positions)} integers or {tuple(shape)}" if positions else ""
            wanted = f"{(m,)} integers or {(m, c)}{per_position}"
            raise ValueError(f"targets must have shape {wanted}, got {got} {self.given.dtype}")
        if self.classes is not None and self.given.ndim == 2 and positions == [c]:
            raise ValueError(
                f"integer targets of shape {got} must not be both class indices per position and one-hot rows: "
                f"give one-hot rows as booleans, or class indices per position as one-hot {tuple(shape)}"
            )
        if self.class_range is not None and not 0 <= self.class_range[0] <= self.class_range[1] < c:
            low, high = self.class_range
            wanted = f"classes 0 to {c - 1} or ignore_index ({ignore_index})"
            raise ValueError(f"targets must be {wanted}, got {low if low < 0 else high}")

    def soft(self, logits: Tensor, terms: Terms) -> tuple[Tensor, Tensor | None]:
        """Distributions with class weights and smoothing, or one-hot booleans, and what each counts, (m, 1 or r).

        That is 1, or 0 for what is left out, or infinity, which makes NaN of a loss, for a class index out of range;
        None if all of them count 1.
        """
        dtype, c = accumulation_dtype(logits.dtype), logits.shape[-1]
        if self.classes is None:
            soft = (self.given.unsqueeze(1) if self.given.ndim == 2 else self.given).to(dtype)
            counts = None if self.left_out is None else (~self.left_out).to(dtype)
        else:
            soft, counts = self.classes.unsqueeze(2) == torch.arange(c, device=logits.device), None
            if self.left_out is not None:  # else, as on the CPU, classes have been checked
                counts = soft.sum(dim=2).reciprocal().masked_fill_(self.left_out, 0).to(dtype)
        if terms.weight is not None or terms.label_smoothing:
            own, smoothing = terms.coefficients(soft.new_empty((), dtype=dtype), c)
            soft = soft * own + smoothing
        return soft, counts


def read_targets(targets: Tensor, shape: torch.Size, mask: Tensor | None, ignore_index: int) -> LossTargets:
    """Find the class indices, and which examples take no part at which position.

    Args:
        shape: (m,), or (m, r) where targets may be per position.
    """
    check_tensor("targets", targets)
    left_out = None
    if mask is not None:
        check_tensor("mask", mask, tuple(shape), "boolean")
        left_out = ~mask
    if not is_integer(targets) or targets.shape not in (shape[:1], shape):
        return LossTargets(targets, None, left_out)
    labels = targets.long()
    classes = labels.view(shape[0], -1).expand(*shape[:1], *(shape[1:] or (1,)))
    if mask is None and can_read(labels):
        low, high = class_range(labels)
        if not low <= ignore_index <= high:
            return LossTargets(targets, classes, None, (low, high))
    ignored = classes == ignore_index
    left_out = ignored if left_out is None else left_out | ignored
    if not can_read(left_out):
        return LossTargets(targets, classes, left_out)
    classes = classes.masked_fill(left_out, 0)  # any class will do
    return LossTargets(targets, classes, left_out if left_out.any() else None, class_range(classes))


def class_range(classes: Tensor) -> tuple[int, int]:
    """Return the lowest and the highest class index."""
    low, high = classes.aminmax()
    return int(low.item()), int(high.item())


@_breaks_graph_to_draw
def binary_loss(
    logits: Tensor, targets: Tensor, mixtures: Mixtures | None, terms: Terms, return_mixing_weights: bool = False
) -> LossAndWeights:
    """Compute `mixed_binary_cross_entropy`, or that of the unmixed examples where `mixtures` is None."""
    check_logits(logits)
    check_tensor("targets", targets)
    if logits.shape[1] == 1 and targets.ndim == 1:
        targets = targets.unsqueeze(1)
    check_tensor("targets", targets, tuple(logits.shape))
    terms.check(logits.shape[1])
    if mixtures is not None:
        mixtures.check(len(logits))
    logits = logits.to(accumulation_dtype(logits.dtype))
    targets, rows = targets.to(logits.dtype), None if mixtures is None else _draw(mixtures, logits)
    check_values("targets", targets, high=1)
    if rows is not None:
        logits, targets = (mix(rows.to(logits.dtype), x) for x in (logits, targets))
    weight, pos_weight = (None if x is None else x.to(logits.dtype) for x in (terms.weight, terms.pos_weight))
    losses = F.binary_cross_entropy_with_logits(logits, targets, weight, pos_weight=pos_weight, reduction="none")
    if terms.reduction == "mean":
        loss = losses.mean()
    else:
        loss = losses.mean(1) if terms.reduction == "none" else losses.mean(1).sum()
    return (loss, _identity(logits) if rows is None else rows) if return_mixing_weights else loss


@_breaks_graph_to_draw
def mixed_loss(
    values: Tensor,
    targets: Tensor,
    mixtures: Mixtures | None,
    terms: Terms,
    return_mixing_weights: bool = False,
    *,
    attention: Tensor | None = None,
    mask: Tensor | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
) -> LossAndWeights:
    """Compute `dense_mixed_cross_entropy` of logits (m, r, c), or plainly of logits (m, c).

    With a head, which need not be affine, the values are features (m, r, d), and it sees the mixtures. Where
    `mixtures` is None the examples are not mixed.
    """
    if mixtures is not None:
        mixtures.check(values.shape[0])
    terms.check(values.shape[-1] if head is None else None)
    shape = values.shape
    labels = read_targets(targets, shape[:-1], mask, terms.ignore_index)
    values = values.unsqueeze(1) if len(shape) == 2 else values
    if mixtures is not None and head is None and terms.reduction != "none":
        labels.check(shape, terms.ignore_index)
        known = return_mixing_weights or mixtures.mixing_weights is not None
        rows = _draw(mixtures, values) if known else None
        loss = _fused_loss(values, labels, attention, mixtures, rows, terms)
        return (loss, rows) if rows is not None and return_mixing_weights else loss
    rows = None if mixtures is None else _draw(mixtures, values)
    masses = _masses(attention, labels.left_out, values)
    logits, valid = finite_logits(values, labels.left_out), masses > 0
    if rows is not None:
        logits, valid = _mix_positions(rows, masses, logits)
    if head is not None:
        logits = finite_logits(head(logits.to(values.dtype)))
        terms.check(logits.shape[-1])
    labels.check((*shape[:-1], logits.shape[-1]), terms.ignore_index)
    soft, counts = labels.soft(logits, terms)
    soft = (soft if counts is None else soft * counts.unsqueeze(2)).expand(*masses.shape, -1)
    if rows is not None:
        soft, _ = _mix_positions(rows, masses, soft)
    loss = _reduce(logits, soft, valid, terms.reduction)
    return (loss, _identity(values) if rows is None else rows) if return_mixing_weights else loss


def _fused_loss(
    logits: Tensor,
    targets: LossTargets,
    attention: Tensor | None,
    mixtures: Mixtures,
    rows: Tensor | None,
    terms: Terms,
) -> Tensor:
    """Sum loss and gradients over chunks of mixtures: by compiled code for class indices in float32 on the CPU, else
    by torch's operations.
    """
    dtype, mean, left_out = accumulation_dtype(logits.dtype), terms.reduction == "mean", targets.left_out
    rows, blocks = (None, mixtures.blocks(logits)) if rows is None else (rows.to(dtype), None)
    kernels = _backend.cpu_kernels() if logits.device.type == "cpu" and dtype == torch.float32 else None
    with without_autocast(logits.device.type):
        if kernels is not None and targets.classes is not None and not any(needs_grad(attention, rows, terms.weight)):
            masses = None if attention is None and left_out is None else _masses(attention, left_out, logits)
            label_masses, smoothing = terms.label_masses(targets.classes, masses, logits.shape[2], dtype)
            constants = (targets.classes, label_masses, smoothing, masses, rows, blocks, left_out, mean)
            return LabelLossCpu.apply(logits, *constants, needs_grad(logits)[0], kernels)[0]
        soft, counts = targets.soft(logits, terms)
        attended = attention is not None or any(needs_grad(rows))
        if attended:
            masses = _masses(attention, left_out, logits)
            soft = soft * (masses if counts is None else masses * counts).unsqueeze(2)
        else:  # rows that are given are divided by their sums
            masses = _masses(None, left_out, logits) if counts is None and rows is not None else counts
        inputs = (logits, soft, masses, rows)
        return SoftTargetLoss.apply(*inputs, blocks, left_out, attended, mean, needs_grad(*inputs))[0]


def _identity(logits: Tensor) -> Tensor:
    """The Λ of examples that are not mixed."""
    return torch.eye(len(logits), dtype=logits.dtype, device=logits.device)


def _draw(mixtures: Mixtures, logits: Tensor) -> Tensor:
    """The whole of Λ, given or drawn."""
    rows = mixtures.mixing_weights
    return torch.cat(list(mixtures.blocks(logits))) if rows is None else rows


def is_integer(targets: Tensor) -> bool:
    """Tell whether targets have an integer dtype; bool is none."""
    return not targets.is_floating_point() and targets.dtype != torch.bool


def _masses(attention: Tensor | None, left_out: Tensor | None, values: Tensor) -> Tensor:
    """What each position of each example counts, (m, r): its attention, or 1, and 0 where it is left out."""
    dtype = accumulation_dtype(values.dtype)
    if attention is None:
        masses = values.new_ones(values.shape[:2], dtype=dtype)
    else:
        masses = clamp_attention(attention).to(dtype)
    return masses if left_out is None else masses.masked_fill(left_out, 0)


def _mix_positions(mixing_weights: Tensor, attention: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mix (m, r, ...) with Λ diag(a^j) at every position j, and tell which mixtures have an example there, (n, r)."""
    mixing_weights = mixing_weights.to(attention.dtype)
    total = mix(mixing_weights, attention)
    valid = ~(total < torch.finfo(total.dtype).tiny)
    total = total.where(valid, torch.ones_like(total)).unsqueeze(2)
    return mix(mixing_weights, attention.unsqueeze(2) * values) / total, valid


def _reduce(logits: Tensor, targets: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """The cross-entropy of each mixture, (n,), the mean over its valid positions; reduced over mixtures."""
    losses = -mark_infinite((targets * logits.log_softmax(dim=2)).sum(dim=2))
    positions = valid.sum(dim=1)
    losses = losses.where(valid, 0).sum(dim=1) / positions.clamp(min=1)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (positions > 0).sum().clamp(min=1)
