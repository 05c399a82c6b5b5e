"""Interpolation of a mini-batch with given mixing weights, plain and dense."""

import torch
from torch import Tensor

from mmlib._backend import without_autocast
from mmlib._checks import check_tensor
from mmlib._typing import Float


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type that weights and sums are computed in: at least single precision.

    >>> accumulation_dtype(torch.bfloat16), accumulation_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def mix(mixing_weights: Float[Tensor, "n m"], values: Float[Tensor, "m *axes"]) -> Float[Tensor, "n *axes"]:
    """Interpolate: row k is sum_i mixing_weights[k, i] * values[i], a point of the convex hull of `values`.

    Args:
        mixing_weights: Λ, shape (n, m), each row summing to 1.
        values: one row for each example: embeddings, logits or targets, shape (m, ...).

    Returns:
        The mixtures, shape (n, ...), in the wider of the two types and at least in float32, under autocast too,
        because in half precision the targets' rows would no longer sum to 1.

    Source: MultiMix (NeurIPS 2023), section 3: z̃ = Λ z, ỹ = Λ y.

    >>> mix(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 2.0], [4.0, 0.0]]))
    tensor([[2., 1.]])
    """
    check_tensor("mixing_weights", mixing_weights, ("n", "m"))
    check_tensor("values", values)
    if values.shape[:1] != mixing_weights.shape[1:]:
        m, got = mixing_weights.shape[1], tuple(values.shape)
        raise ValueError(f"values must have shape ({m}, ...) for these mixing_weights, got {got}")
    dtype = accumulation_dtype(torch.promote_types(mixing_weights.dtype, values.dtype))
    with without_autocast(values.device.type):
        return torch.einsum("nm,m...->n...", mixing_weights.to(dtype), values.to(dtype))


def mix_dense(
    mixing_weights: Float[Tensor, "n m"], attention: Float[Tensor, "m r"], values: Float[Tensor, "m r *axes"]
) -> Float[Tensor, "n r *axes"]:
    """Interpolate at every position, where each example's weight is multiplied by its attention there.

    At position j the weights are M̂^j = Λ diag(a^j), each row divided by its sum; Λ is shared by all positions.
    Where a mixture's examples have no attention at a position, the mixture keeps its own weights there.

    Args:
        mixing_weights: Λ, shape (n, m), each row summing to 1.
        attention: a, shape (m, r), not negative. No gradient reaches it where it is zero.
        values: embeddings, logits or targets of every position, shape (m, r, ...).

    Returns:
        The mixtures, shape (n, r, ...), at least in float32.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.

    >>> mix_dense(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.eye(2))
    tensor([[0.2500, 0.5000]])
    """
    check_tensor("values", values)
    check_tensor("attention", attention, tuple(values.shape[:2]))
    attention = clamp_attention(attention)
    total = mix(mixing_weights, attention)
    attention, total = (x.view(*x.shape, *[1] * (values.ndim - 2)) for x in (attention, total))
    return mix(mixing_weights, attention * values) / total


def clamp_attention(attention: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
    """Clamp attention to at least 1e-20, in float32 or wider.

    Dense interpolation divides by sums of attention. Where they would be zero, the clamped ones give the limit: the
    mixing weights alone.

    >>> clamp_attention(torch.tensor([[0.0, 0.5]])).tolist()
    [[9.999999682655225e-21, 0.5]]
    """
    return attention.to(accumulation_dtype(attention.dtype)).clamp(min=1e-20)
