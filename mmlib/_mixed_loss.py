"""The computation behind the functions of `mmlib.functional` and the criteria of `mmlib.losses`.

Each row of Λ is divided by its sum over the examples that take part. An example that does not (its label is
`ignore_index`, its position is masked) has weight 0 there, and a mixture or position without any example is no term
of the loss and does not count in its mean.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmlib import _backend
from mmlib._autograd import LabelLossCpu, SoftTargetLoss, mark_infinite, needs_grad
from mmlib._checks import check_choice, check_int, check_logits, check_range, check_tensor, check_type, check_values
from mmlib._typing import Alpha
from mmlib.mixing import accumulation_dtype, clamp_attention, mix
from mmlib.sampling import check_alpha, iter_mixing_weights

DEFAULT_NUM_MIXTURES = 1000

LossAndWeights = Tensor | tuple[Tensor, Tensor]


def _exclude_from_compile(function: Callable) -> Callable:
    """Exclude `function` from `torch.compile` graphs: it draws random numbers and loops over chunks.

    `torch.compiler.disable` is applied lazily because importing Dynamo is slow.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        if torch.compiler.is_compiling():
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
        if weights.device.type == "cpu":  # elsewhere the host would have to wait
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
        """Draw Λ for the examples of `logits`, in their dtype and on their device, a block of rows at a time."""
        n, m = int(self.num_mixtures or DEFAULT_NUM_MIXTURES), len(logits)
        alpha, device, dtype = self.interval(m), logits.device, logits.dtype
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

    def coefficients(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What an example's own label and what smoothing contributes to each class, (c,) each."""
        c, smoothing = logits.shape[-1], float(self.label_smoothing)
        weight = logits.new_ones(c) if self.weight is None else self.weight.to(logits.dtype)
        return (1 - smoothing) * weight, smoothing / c * weight


@_exclude_from_compile
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
    targets, rows = targets.to(logits.dtype), _draw(mixtures, logits)
    check_values("targets", targets, high=1)
    if mixtures is not None:
        logits, targets = (mix(rows.to(logits.dtype), x) for x in (logits, targets))
    weight, pos_weight = (None if x is None else x.to(logits.dtype) for x in (terms.weight, terms.pos_weight))
    losses = F.binary_cross_entropy_with_logits(logits, targets, weight, pos_weight=pos_weight, reduction="none")
    if terms.reduction == "mean":
        loss = losses.mean()
    else:
        loss = losses.mean(1) if terms.reduction == "none" else losses.mean(1).sum()
    return (loss, rows) if return_mixing_weights else loss


@_exclude_from_compile
def mixed_loss(
    values: Tensor,
    targets: Tensor,
    attention: Tensor | None,
    mask: Tensor | None,
    mixtures: Mixtures | None,
    terms: Terms,
    return_mixing_weights: bool = False,
    head: Callable[[Tensor], Tensor] | None = None,
) -> LossAndWeights:
    """Compute `dense_mixed_cross_entropy` of logits (m, r, c), or plainly of logits (m, c).

    With a head, which need not be affine, the values are features (m, r, d), and it sees the mixtures. Where
    `mixtures` is None the examples are not mixed.
    """
    if mixtures is not None:
        mixtures.check(len(values))
    terms.check()
    classes, mask = _participants(targets, values.shape[:-1], mask, terms.ignore_index)
    logits, folded = _leave_out(_finite(values), attention, mask)
    if mixtures is not None and head is None and terms.reduction != "none":
        _check_targets(targets, classes, values.shape, terms)
        known = return_mixing_weights or mixtures.mixing_weights is not None
        rows = _draw(mixtures, logits) if known else None
        loss = _fused_loss(logits, targets, classes, folded, mixtures, rows, terms)
        return (loss, rows) if rows is not None and return_mixing_weights else loss
    rows = _draw(mixtures, logits)
    valid = folded > 0
    if mixtures is not None:
        logits, valid = _mix_positions(rows, folded, logits)
    if head is not None:
        logits = _finite(head(logits.to(values.dtype)))
    shape = (*values.shape[:-1], logits.shape[-1])
    _check_targets(targets, classes, shape, terms)
    soft = _soft_targets(targets, classes, logits, terms).expand(*folded.shape, -1)
    if mixtures is not None:
        soft, _ = _mix_positions(rows, folded, soft)
    loss = _reduce(logits, soft, valid, terms.reduction)
    return (loss, rows) if return_mixing_weights else loss


def _fused_loss(
    logits: Tensor,
    targets: Tensor,
    classes: Tensor | None,
    attention: Tensor,
    mixtures: Mixtures,
    rows: Tensor | None,
    terms: Terms,
) -> Tensor:
    """Fold attention into logits and targets and lay both out as (c r, m), class-major.

    Mixing is then one matrix product, and reductions over classes run along contiguous rows. The CPU kernel serves
    class indices in float32, the torch path all else.
    """
    (m, _, c), mean, cpu = logits.shape, terms.reduction == "mean", logits.device.type == "cpu"
    rows, blocks = (None, mixtures.blocks(logits)) if rows is None else (rows.to(logits.dtype), None)
    scaled = (attention.unsqueeze(2) * logits).permute(2, 1, 0).reshape(-1, m)
    kernels = _backend.cpu_kernels() if cpu and logits.dtype == torch.float32 else None
    with torch.autocast(logits.device.type, enabled=False):
        if kernels is not None and classes is not None and not any(needs_grad(attention, rows, terms.weight)):
            own, smoothing = terms.coefficients(logits)
            constants = (classes, attention * own[classes], smoothing, attention)
            return LabelLossCpu.apply(scaled, *constants, rows, blocks, mean, needs_grad(scaled)[0], kernels)[0]
        soft = attention.unsqueeze(2) * _soft_targets(targets, classes, logits, terms)
        inputs = (scaled, soft.permute(2, 1, 0).reshape(-1, m), attention.T.contiguous(), rows)
        return SoftTargetLoss.apply(*inputs, blocks, c, mean, needs_grad(*inputs))[0]


def _draw(mixtures: Mixtures | None, logits: Tensor) -> Tensor:
    """The whole of Λ: given, drawn, or the identity for examples that are not mixed."""
    if mixtures is None:
        return torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    rows = mixtures.mixing_weights
    return torch.cat(list(mixtures.blocks(logits))) if rows is None else rows


def is_integer(targets: Tensor) -> bool:
    """Tell whether targets have an integer dtype; bool is none."""
    return not targets.is_floating_point() and targets.dtype != torch.bool


def _participants(
    targets: Tensor, shape: torch.Size, mask: Tensor | None, ignore_index: int
) -> tuple[Tensor | None, Tensor | None]:
    """Find the class indices, if the targets hold any, and which examples take part at which position.

    Args:
        shape: (m,), or (m, r) where targets may be per position.

    Returns:
        Class indices (m, r), 0 where masked, and a mask (m, r), None if it is known to be all True.
    """
    classes = None
    check_tensor("targets", targets)
    if mask is not None:
        check_tensor("mask", mask, tuple(shape), "boolean")
    if is_integer(targets) and targets.shape in (shape[:1], shape):
        classes = targets.long().view(len(targets), -1).expand(*shape[:1], *(shape[1:] or (1,)))
        labelled = classes != ignore_index
        mask = labelled if mask is None else labelled & mask
        if mask.device.type == "cpu" and bool(mask.all()):
            return classes, None
        classes = classes.masked_fill(~mask, 0)  # any class will do for what is left out
    return classes, mask


def _check_targets(targets: Tensor, classes: Tensor | None, shape: tuple[int, ...], terms: Terms) -> None:
    """Refuse targets that do not fit logits of a shape, and on the CPU class indices out of range."""
    (m, *positions, c), got = shape, tuple(targets.shape)
    terms.check(c)
    if c < 2:
        raise ValueError(f"logits must have at least 2 classes, got {tuple(shape)}; MultiMixBCELoss is for yes or no")
    if classes is None and got not in ((m, c), tuple(shape)):
        per_position = f", {(m, *positions)} integers or {tuple(shape)}" if positions else ""
        raise ValueError(
            f"targets must have shape {(m,)} integers or {(m, c)}{per_position}, got {got} {targets.dtype}"
        )
    if classes is not None and targets.ndim == 2 and positions == [c]:
        raise ValueError(
            f"integer targets of shape {got} must not be both class indices per position and one-hot rows: "
            f"give one-hot rows as booleans, or class indices per position as one-hot {tuple(shape)}"
        )
    if classes is not None and classes.device.type == "cpu":  # elsewhere the host would have to wait
        low, high = (end.item() for end in classes.aminmax())
        if not 0 <= low <= high < c:
            wanted = f"classes 0 to {c - 1} or ignore_index ({terms.ignore_index})"
            raise ValueError(f"targets must be {wanted}, got {low if low < 0 else high}")


def _soft_targets(targets: Tensor, classes: Tensor | None, logits: Tensor, terms: Terms) -> Tensor:
    """Distributions with class weights and smoothing, (m, 1 or r, c); NaN for a class index out of range."""
    own, smoothing = terms.coefficients(logits)
    if classes is None:
        distributions = targets.to(logits.dtype)
        return (distributions.unsqueeze(1) if targets.ndim == 2 else distributions) * own + smoothing
    indices = torch.arange(logits.shape[-1], device=logits.device)
    outside = (classes < 0) | (classes >= logits.shape[-1])
    one_hot = (classes.unsqueeze(2) == indices).to(logits.dtype)
    return (one_hot * own + smoothing).masked_fill(outside.unsqueeze(2), torch.nan)


def _finite(logits: Tensor) -> Tensor:
    """Logits (m, r, c) in single precision at least, -inf as a number so low that no class can be less likely."""
    logits = logits.to(accumulation_dtype(logits.dtype))
    logits = logits.clamp(min=-torch.finfo(logits.dtype).max / 4)
    return logits.unsqueeze(1) if logits.ndim == 2 else logits


def _leave_out(values: Tensor, attention: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values (m, r, ...) and attention (m, r), both 0 where the mask is False."""
    attention = values.new_ones(values.shape[:2]) if attention is None else attention
    attention = clamp_attention(attention).to(values.dtype)
    if mask is None:
        return values, attention
    return values.masked_fill(~mask.unsqueeze(2), 0), attention.masked_fill(~mask, 0)


def _mix_positions(mixing_weights: Tensor, attention: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mix (m, r, ...) with Λ diag(a^j) at every position j, and tell which mixtures have an example there, (n, r)."""
    mixing_weights = mixing_weights.to(attention.dtype)
    total = mix(mixing_weights, attention)
    valid = ~(total < torch.finfo(total.dtype).tiny)
    total = total.where(valid, torch.ones_like(total)).unsqueeze(2)
    return mix(mixing_weights, attention.unsqueeze(2) * values) / total, valid


def _reduce(logits: Tensor, targets: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """The cross-entropy of each mixture, (n,), the mean over its valid positions; reduced over mixtures."""
    losses = -(targets * logits.log_softmax(dim=2)).sum(dim=2)
    positions = valid.sum(dim=1)
    losses = mark_infinite(losses).where(valid, torch.zeros_like(losses)).sum(dim=1) / positions.clamp(min=1)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (positions > 0).sum().clamp(min=1)
