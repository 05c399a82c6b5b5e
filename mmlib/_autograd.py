"""Autograd functions that compute a loss and its gradients in one pass over chunks of mixtures."""

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor

# Elements of the mixed-logit matrix processed per chunk: on the CPU few enough to stay in cache (rounded up to whole
# kernel blocks), elsewhere enough to keep the device busy.
CPU_CHUNK_ELEMENTS, GPU_CHUNK_ELEMENTS = 3 * 2**16, 2**24


def needs_grad(*values: Tensor | None) -> list[bool]:
    """Tell for each value whether it needs a gradient. Unlike `needs_input_grad`, False for leaves under `no_grad`."""
    return [torch.is_grad_enabled() and x is not None and x.requires_grad for x in values]


def mark_infinite(losses: Tensor) -> Tensor:
    """Replace what a label of an impossible class costs by infinity.

    Logits of -inf are clamped to a quarter of the lowest number before they are mixed, for 0 times infinity is NaN.
    """
    return losses.masked_fill(losses >= impossible(losses.dtype), torch.inf)


def impossible(dtype: torch.dtype) -> float:
    """Return the loss from which on a label must be one of an impossible class."""
    return torch.finfo(dtype).max ** 0.5


def _with_signature(forward: Callable) -> Callable:
    """Keep the signature of `forward`, which autograd asks for at every call: a tenth of the time of a small loss."""
    forward.__signature__ = inspect.signature(forward)
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
        gradients, inputs = ctx.saved_tensors[: ctx.num_gradients], ctx.saved_tensors[ctx.num_gradients :]
        scaled = [
            None if gradient is None else ScaledGradient.apply(gradient, scale, *inputs) for gradient in gradients
        ]
        return *scaled, *[None] * (ctx.num_inputs - len(scaled))


class ScaledGradient(torch.autograd.Function):
    """A gradient times the derivative that came from above; it depends on the inputs, but not differentiably."""

    @staticmethod
    @_with_signature
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
    A mixture's loss is the mean over the positions where s > 0.

    Args of `forward`: a l and a y as matrices (c r, m), a as (r, m), Λ or else blocks of its rows, c, whether to
    average over the mixtures that have a position, and which of the first four need gradients.
    """

    @staticmethod
    @_with_signature
    def forward(logits, targets, attention, mixing_weights, blocks, c, mean, needs):
        inputs = (logits, targets, attention)
        operands = (logits, targets, targets.view(c, -1, targets.shape[1]).sum(dim=0), attention)
        elements = CPU_CHUNK_ELEMENTS if logits.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        grad_sums = [torch.zeros_like(x) if need else None for x, need in zip(inputs, needs)]
        loss, weight_grads = logits.new_zeros(()), []
        count = torch.zeros((), dtype=torch.long, device=logits.device)
        for block in [mixing_weights] if blocks is None else blocks:
            for rows in block.split(max(1, elements // len(logits))):
                value, counted, gradients = _chunk(rows.T.contiguous(), operands, c, any(needs[1:]))
                loss, count = loss + value, count + counted
                for total, gradient in zip(grad_sums, gradients):
                    if total is not None:
                        total.addmm_(gradient, rows)
                if needs[3]:
                    weight_grads.append(sum(g.T @ x for g, x in zip(gradients, inputs)))
        grad_sums.append(torch.cat(weight_grads) if needs[3] else None)
        divisor = count.clamp(min=1) if mean else 1
        return mark_infinite(loss) / divisor, *(None if g is None else g.div_(divisor) for g in grad_sums)


def _chunk(
    columns: Tensor, operands: tuple[Tensor, ...], c: int, all_gradients: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The mixtures whose weights are `columns`: their summed loss, their number, and the derivatives by Λ l.

    With `all_gradients` also those by Λ y and Λ a. The operands are a l, a y, a y summed over classes, (r, m), and a.
    """
    logits, targets, target_mass, attention = operands
    x, y = ((values @ columns).view(c, -1) for values in (logits, targets))
    total = attention @ columns
    valid = ~(total < torch.finfo(total.dtype).tiny)  # True of NaN, which must not get lost
    inverse = total.reciprocal_().masked_fill_(~valid, 0).view(-1)
    positions = valid.sum(dim=0)
    term_weights = (valid.to(x.dtype) / positions.clamp(min=1)).view(-1)
    scale = inverse * term_weights
    x.mul_(inverse)
    y.mul_(scale)
    mass = (target_mass @ columns).view(-1).mul_(scale)
    x.sub_(x.amax(dim=0))
    loss = -torch.dot(x.view(-1), y.view(-1))
    p = x.exp() if all_gradients else x.exp_()
    partition = p.sum(dim=0)
    loss += torch.dot(partition.log(), mass)
    gradients = [p.mul_(mass / partition * inverse).addcmul_(y, inverse, value=-1)]
    if all_gradients:
        surprise = (partition.log() - x).mul_(inverse)
        gradients.append(surprise * term_weights)
        gradients.append(-(x * gradients[0] + y * surprise).sum(dim=0))
    return loss, (positions > 0).sum(), [gradient.view(-1, columns.shape[1]) for gradient in gradients]


class LabelLossCpu(PrecomputedGradient):
    """Cross-entropy of n mixtures for class indices in float32 on the CPU, by the numba kernel.

    It is differentiable in the logits only.

    Args of `forward`: a l as a matrix (c r, m), the classes (m, r), what a label counts (m, r), what label smoothing
    adds to every class (c,), a as (m, r), Λ or else blocks of its rows, whether to average over the mixtures that have
    a position, whether the logits need a gradient, and the kernels.
    """

    @staticmethod
    @_with_signature
    def forward(logits, classes, label_weights, smoothing, attention, mixing_weights, blocks, mean, needs, kernels):
        kernel_block = kernels.MIXTURES_PER_BLOCK
        size = -(-CPU_CHUNK_ELEMENTS // len(logits) // kernel_block) * kernel_block
        arrays = [x.detach().numpy() for x in (classes, label_weights, smoothing)]
        loss, count, gradient = 0.0, 0, torch.zeros_like(logits)
        for block in [mixing_weights] if blocks is None else blocks:
            for rows in block.split(size):
                mixed, totals = logits @ rows.T, attention.T @ rows.T
                positions_first = mixed.view(-1, attention.shape[1], len(rows)).numpy()
                label_totals = label_weights.detach().T @ rows.T
                value, counted = kernels.cross_entropy_with_grad(
                    positions_first, rows.contiguous().detach().numpy(), *arrays, totals.numpy(), label_totals.numpy()
                )
                loss, count = loss + value, count + counted
                if needs:
                    gradient.addmm_(mixed, rows)
        divisor = max(count, 1) if mean else 1
        loss = math.inf if loss >= impossible(logits.dtype) else loss / divisor
        return logits.new_tensor(loss), gradient.div_(divisor) if needs else None
