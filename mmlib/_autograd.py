"""Autograd functions that compute a loss and its gradients in one pass over chunks of mixtures."""

import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.mixing import accumulation_dtype

# Elements of the mixed-logit matrix processed per chunk: on the CPU few enough to stay in cache (rounded up to whole
# kernel blocks), elsewhere enough to keep the device busy.
CPU_CHUNK_ELEMENTS, GPU_CHUNK_ELEMENTS = 3 * 2**16, 2**24
MIN_CHUNK_ROWS = 64  # of fewer, products of matrices are slow


def finite_logits(logits: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Logits (m, r, c) in single precision at least, -inf as a number so low that no class can be less likely.

    What is left out, (m, r), is 0. The result is a new tensor, which the caller may overwrite.
    """
    logits = logits.to(accumulation_dtype(logits.dtype))
    logits = logits.clamp(min=-torch.finfo(logits.dtype).max / 4)
    return logits if left_out is None else logits.masked_fill(left_out.unsqueeze(2), 0)


def needs_grad(*values: Tensor | None) -> list[bool]:
    """Tell for each value whether it needs a gradient. Unlike `needs_input_grad`, False for leaves under `no_grad`."""
    return [torch.is_grad_enabled() and x is not None and x.requires_grad for x in values]


def mark_infinite(likelihoods: Tensor) -> Tensor:
    """Replace the logarithm of a label's likelihood by -infinity if its class is impossible.

    `finite_logits` replaces logits of -inf before they are mixed, for 0 times infinity is NaN.
    """
    return F.threshold(likelihoods, -impossible(likelihoods.dtype), -torch.inf)


def impossible(dtype: torch.dtype) -> float:
    """Return the loss from which on a label must be one of an impossible class."""
    return torch.finfo(dtype).max ** 0.5


def invert_sums(sums: Tensor) -> Tensor:
    """Return 1 / sums of weights, 0 where there is no weight, and NaN of NaN, which must not get lost."""
    return F.threshold(sums, torch.finfo(sums.dtype).tiny, torch.inf).reciprocal_()


def count_nonzero(values: Tensor, dim: int | None = None) -> Tensor:
    """Count in one operation; `torch.count_nonzero` starts two on a GPU."""
    return torch.linalg.vector_norm(values, ord=0, dim=dim)


def _unbound(forward: Callable) -> Callable:
    """Spare autograd binding the arguments to their names at every call: a tenth of the time of a small loss."""
    forward.__signature__ = inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL)])
    return forward


class PrecomputedGradient(torch.autograd.Function):
    """Autograd function that computes its gradients in the forward pass.

    `forward` returns the loss, then one gradient (or None) for each leading input; `backward` scales them. The
    remaining inputs are not differentiable.
    """

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.set_materialize_grads(False)
        gradients = output[1:]
        ctx.mark_non_differentiable(*(gradient for gradient in gradients if gradient is not None))
        ctx.num_inputs, ctx.num_gradients = len(inputs), len(gradients)
        differentiable = [x for x, gradient in zip(inputs, gradients) if gradient is not None]
        ctx.save_for_backward(*gradients, *differentiable)

    @staticmethod
    def backward(ctx, *grad_outputs):
        scale = grad_outputs[0]
        if scale is None:
            return (None,) * ctx.num_inputs
        saved = ctx.saved_tensors  # read once: activation checkpointing hands them out once
        gradients, inputs = saved[: ctx.num_gradients], saved[ctx.num_gradients :]
        if torch.is_grad_enabled():  # by create_graph=True or torch.func: a second derivative is refused
            scaled = [None if x is None else ScaledGradient.apply(x, scale, *inputs) for x in gradients]
        else:
            scaled = [None if x is None else scale * x for x in gradients]
        return *scaled, *[None] * (ctx.num_inputs - len(scaled))


class ScaledGradient(torch.autograd.Function):
    """A gradient times the derivative that came from above; it depends on the inputs, but not differentiably."""

    @staticmethod
    @_unbound
    def forward(gradient, scale, *inputs):
        return scale * gradient

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "this loss cannot be differentiated twice, for its gradient is computed in the forward pass; "
            'the mean of reduction="none" can'
        )


class SoftTargetLoss(PrecomputedGradient):
    """Cross-entropy of n mixtures at r positions for any target, its gradients computed together with it.

    l̃ = Λ l / s and ỹ = Λ y / s, where s = Λ a. With p̃ = softmax(l̃) the derivatives are
    ∂H/∂l̃ = p̃ Σỹ - ỹ, ∂H/∂ỹ = -log p̃ and ∂H/∂s = -(l̃ · ∂H/∂l̃ + ỹ · ∂H/∂ỹ) / s; each goes through Λ from there.
    A mixture's loss is the mean over the positions where s > 0. Sums are of -H, and the divisor has the other sign.

    A GPU waits here for the host, which starts its operations one by one. So they are few, and what prepares the
    logits is done inside, where autograd keeps no record of it.

    Args of `forward`: logits (m, r, c), targets (m, r, c), one-hot ones also as booleans, a (m, r), Λ or else blocks of
    its rows; the examples left out, (m, r), or None for none; whether the targets are already multiplied by a, which
    then is attention, or a is 1 for examples that take part and 0 for the others, (m, 1), or None for ones; whether to
    average over the mixtures that have a position; which of the first four need gradients, a and Λ only with attention.
    """

    @staticmethod
    @_unbound
    def forward(logits, targets, attention, mixing_weights, blocks, left_out, attended, mean, needs):
        values = finite_logits(logits, left_out)
        scaled = (attention.unsqueeze(2) * values if attended else values).flatten(1)
        flat_targets, shape = targets.flatten(1).to(values.dtype), logits.shape[1:]
        elements = CPU_CHUNK_ELEMENTS if logits.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        results, sums, by_weights = [], [], []
        for block in [mixing_weights] if blocks is None else blocks:
            for rows in block.split(max(MIN_CHUNK_ROWS, elements // shape.numel())):
                if attended:
                    chunk = _chunk_with_attention(rows, scaled, flat_targets, attention, shape, needs)
                else:
                    chunk = _chunk(rows, scaled, flat_targets, attention, needs)
                results.append((chunk.total, chunk.filled))
                products = zip(sums or chunk.derivatives, chunk.derivatives)
                sums = [a.addmm_(chunk.rows.T, b) if sums else chunk.rows.T @ b for a, b in products]
                if needs[3]:
                    operands = scaled, flat_targets, attention
                    by_weights.append(sum(x @ y.T for x, y in zip(chunk.derivatives, operands)))
        total, count = (functools.reduce(operator.add, column) for column in zip(*results))
        divisor = -torch.finfo(values.dtype).tiny - count if mean else -1  # not 0, so that 0 / 0 is 0
        gradients = _gradients(sums, values, attention if attended else None, needs)
        gradients.append(torch.cat(by_weights) if needs[3] else None)
        return mark_infinite(total) / divisor, *(None if x is None else x.div_(divisor) for x in gradients)


class _Chunk(NamedTuple):
    """What some rows of Λ contribute.

    Args:
        total: the sum of -H.
        filled: the number of mixtures that have an example.
        derivatives: of the total by mixed logits, (rows, r c), mixed targets, (rows, r c), and s, (rows, r); those
            that are not needed are left out at the end.
        rows: the weights that logits and targets were mixed with, (rows, m).
    """

    total: Tensor
    filled: Tensor | int
    derivatives: list[Tensor]
    rows: Tensor


def _chunk(rows: Tensor, values: Tensor, targets: Tensor, counts: Tensor | None, needs: list[bool]) -> _Chunk:
    """Mix logits (m, c) and targets (m, c), each row divided by its sum over the examples that count, (m, 1)."""
    count = len(rows)
    if counts is not None:
        rows = rows * counts.T
        inverse = invert_sums(rows.sum(dim=1, keepdim=True))
        rows.mul_(inverse)
        count = count_nonzero(inverse)
    y, log_p = rows @ targets, (rows @ values).log_softmax(dim=1)
    derivatives = []
    if any(needs):
        derivatives.append(_by_mixed_logits(y, log_p))
    if needs[1]:
        derivatives.append(log_p)
    return _Chunk(torch.dot(y.view(-1), log_p.view(-1)), count, derivatives, rows)


def _by_mixed_logits(y: Tensor, log_p: Tensor) -> Tensor:
    """Return ỹ - p̃ Σỹ, the derivative of -H by the mixed logits; sums are over the last axis.

    This is what autograd itself computes behind a log-softmax, in one operation. Torch has no public name for it.
    """
    return torch._log_softmax_backward_data(y, log_p, -1, y.dtype)


def _chunk_with_attention(
    rows: Tensor, scaled: Tensor, targets: Tensor, attention: Tensor, shape: torch.Size, needs: list[bool]
) -> _Chunk:
    """Mix a l (m, r c) and a y (m, r c), at every position divided by Λ a there; `shape` is (r, c)."""
    inverse = invert_sums(rows @ attention)
    positions = count_nonzero(inverse, dim=1)  # of each mixture
    inverse = inverse.unsqueeze(2)
    share = inverse / positions.clamp(min=1).view(-1, 1, 1)
    x, y = ((rows @ values).view(-1, *shape).mul_(factor) for values, factor in ((scaled, inverse), (targets, share)))
    log_p = x.log_softmax(dim=2)
    derivatives = []
    if any(needs):
        by_logits = _by_mixed_logits(y, log_p).mul_(inverse)
        derivatives.append(by_logits.flatten(1))
        if any(needs[1:]):
            by_sums = -(x * by_logits + y * log_p * inverse).sum(dim=2)
            derivatives += [(log_p * share).flatten(1), by_sums]
    return _Chunk(torch.dot(y.view(-1), log_p.view(-1)), count_nonzero(positions), derivatives, rows)


def _gradients(sums: list[Tensor], values: Tensor, attention: Tensor | None, needs: list[bool]) -> list[Tensor | None]:
    """The gradients by logits, targets and a, from those by a l, a y and, besides, by a."""
    gradients: list[Tensor | None] = [None] * 3
    if sums:
        by_logits = sums[0].view_as(values)
        if needs[1]:
            gradients[1] = sums[1].view_as(values)
        if needs[2]:
            gradients[2] = sums[2] + (by_logits * values).sum(dim=2)
        if needs[0]:
            gradients[0] = by_logits if attention is None else by_logits.mul_(attention.unsqueeze(2))
    return gradients


class LabelLossCpu(PrecomputedGradient):
    """Cross-entropy of n mixtures for class indices in float32 on the CPU, by the numba kernel.

    It is differentiable in the logits only. They are laid out as (c r, m), class-major: mixing is then one matrix
    product, and the kernel's reductions over classes run along contiguous rows.

    Args of `forward`: logits (m, r, c), the classes (m, r), what a label counts (m, r), or None for as much as its
    example; what label smoothing adds to every class (c,), or None; what an example counts (m, r), or None for 1; Λ or
    else blocks of its rows, the examples left out as in `SoftTargetLoss`, whether to average over the mixtures that
    have a position, whether the logits need a gradient, and the kernels.
    """

    @staticmethod
    @_unbound
    def forward(
        logits, classes, label_masses, smoothing, masses, mixing_weights, blocks, left_out, mean, needs, kernels
    ):
        (m, r, c), kernel_block = logits.shape, kernels.MIXTURES_PER_BLOCK
        values = finite_logits(logits, left_out)
        if masses is not None:
            values.mul_(masses.unsqueeze(2))
        # A view where the layout allows it, as with one position; the gradient takes the same layout.
        scaled = values.permute(2, 1, 0).reshape(-1, m)
        gradient, of_examples = torch.zeros_like(scaled), scaled.new_ones(m, r) if masses is None else masses
        of_labels = of_examples if label_masses is None else label_masses
        # In one layout: for another, numba would compile everything anew.
        arrays = [x.contiguous().numpy() for x in (classes, of_labels)]
        arrays.append(np.zeros(c, np.float32) if smoothing is None else smoothing.contiguous().numpy())
        size = -(-CPU_CHUNK_ELEMENTS // (c * r) // kernel_block) * kernel_block
        loss, count = 0.0, 0
        for block in [mixing_weights] if blocks is None else blocks:
            for rows in block.split(size) if len(block) > size else (block,):
                columns = rows.T
                mixed, totals = scaled @ columns, of_examples.T @ columns
                label_totals = totals if label_masses is None else label_masses.T @ columns
                mixed_logits, weights = mixed.view(c, r, -1).numpy(), rows.contiguous().detach().numpy()
                value, counted = kernels.cross_entropy_with_grad(
                    mixed_logits, weights, *arrays, totals.numpy(), label_totals.numpy()
                )
                loss, count = loss + value, count + counted
                if needs:
                    gradient.addmm_(mixed, rows)
        divisor = max(count, 1) if mean else 1
        loss = scaled.new_full((), math.inf if loss >= impossible(scaled.dtype) else loss / divisor)
        if not needs:
            return loss, None
        by_logits = gradient.div_(divisor).view(c, r, m)
        if masses is not None:
            by_logits.mul_(masses.T)
        return loss, by_logits.permute(2, 1, 0).contiguous()
