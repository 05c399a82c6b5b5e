"""Autograd functions that compute a loss and its gradients in one pass over chunks of mixtures."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Mixed logits computed together: on the CPU as many as stay in cache, or those of one of the compiled code's blocks;
# elsewhere as many as keep the device busy.
CHUNK_ON_CPU, CHUNK = 3 * 2**16, 2**24


def _wanted(*values: Tensor | None) -> list[bool]:
    """Which of the values need a gradient; autograd would also say so of leaves where gradients are switched off."""
    return [torch.is_grad_enabled() and x is not None and x.requires_grad for x in values]


class _PrecomputedGradient(torch.autograd.Function):
    """What saves the gradients by its first arguments in its forward pass; no other argument has one."""

    @staticmethod
    @once_differentiable
    def backward(ctx, scale):
        gradients = [None if gradient is None else scale * gradient for gradient in ctx.saved_tensors]
        return *gradients, *[None] * (len(ctx.needs_input_grad) - len(gradients))


class _SoftTargetLoss(_PrecomputedGradient):
    """Mean over k and j of H(ỹ, softmax(l̃)), its gradients computed together with it.

    l̃ = Λ l / s and ỹ = Λ y / s, where s = Λ a, or 1 without attention. With p̃ = softmax(l̃) the derivatives are
    ∂H/∂l̃ = p̃ Σỹ - ỹ, ∂H/∂ỹ = -log p̃ and ∂H/∂s = -(l̃ · ∂H/∂l̃ + ỹ · ∂H/∂ỹ) / s; each goes through Λ from there.
    """

    @staticmethod
    def forward(ctx, logits, targets, attention, weights, blocks, n, c, wanted):
        values = (logits, targets, attention)
        mixed = (logits, targets, targets.view(c, -1, targets.shape[1]).sum(dim=0), attention)
        size = CHUNK_ON_CPU if logits.device.type == "cpu" else CHUNK
        sums = [torch.zeros_like(x) if want else None for x, want in zip(values, wanted)]
        loss, of_weights = logits.new_zeros(()), []
        for block in blocks:
            for rows in block.split(max(1, size // len(logits))):
                value, gradients = _chunk(rows.T.contiguous(), mixed, c, any(wanted[1:]))
                loss += value
                for total, gradient in zip(sums, gradients):
                    if total is not None:
                        total.addmm_(gradient, rows)
                if wanted[3]:
                    of_weights.append(sum(g.T @ x for g, x in zip(gradients, values) if x is not None))
        sums.append(torch.cat(of_weights) if wanted[3] else None)
        terms = n * len(logits) // c
        ctx.save_for_backward(*(None if g is None else g.div_(terms) for g in sums))
        return loss / terms


def _chunk(columns: Tensor, mixed: tuple[Tensor | None, ...], c: int, every: bool) -> tuple[Tensor, list[Tensor]]:
    """The summed loss of the mixtures `columns`, and its derivatives by Λ l and, if `every`, by Λ y and Λ a.

    `mixed` are l, y, y summed over classes, (r, m), and a.
    """
    logits, targets, masses, attention = mixed
    x, y = ((values @ columns).view(c, -1) for values in (logits, targets))
    mass = (masses @ columns).view(-1)
    inverse = None if attention is None else (attention @ columns).reciprocal_().view(-1)
    if inverse is not None:
        for values in (x, y, mass):
            values.mul_(inverse)
    x.sub_(x.amax(dim=0))
    loss = -torch.dot(x.view(-1), y.view(-1))
    p = x.exp() if every else x.exp_()
    total = p.sum(dim=0)
    loss += torch.dot(total.log(), mass)
    share = mass / total
    if inverse is None:
        gradients = [p.mul_(share).sub_(y)]
    else:
        gradients = [p.mul_(share.mul_(inverse)).addcmul_(y, inverse, value=-1)]
    if every:
        gradients.append((total.log() - x).mul_(1 if inverse is None else inverse))
        gradients.append(-sum((value * gradient).sum(dim=0) for value, gradient in zip((x, y), gradients)))
    return loss, [gradient.view(-1, columns.shape[1]) for gradient in gradients]


class _LabelLossCpu(_PrecomputedGradient):
    """Of labels, in single precision on the CPU: compiled (`mmlib._cpu_kernels`), with a gradient for logits alone.

    It takes Λ's factors l a, (c r, m), the m classes, and a, (m, r).
    """

    @staticmethod
    def forward(ctx, logits, classes, attention, blocks, n):
        from mmlib import _cpu_kernels

        r, c = attention.shape[1], len(logits) // attention.shape[1]
        whole = _cpu_kernels.BLOCK
        size = -(-CHUNK_ON_CPU // len(logits) // whole) * whole
        loss, gradient = 0.0, torch.zeros_like(logits)
        for block in blocks:
            for rows in block.split(size):
                mixed, inverse = logits @ rows.T, (attention.T @ rows.T).reciprocal_()
                arrays = (x.numpy() for x in (mixed.view(c, r, -1), rows, classes, attention, inverse))
                loss += _cpu_kernels.cross_entropy_with_grad(*arrays)
                if ctx.needs_input_grad[0]:  # a product, never a leaf
                    gradient.addmm_(mixed, rows)
        ctx.save_for_backward(gradient.div_(n * r))
        return logits.new_tensor(loss / (n * r))
