"""Interpolation of a mini-batch with given mixing weights, plain and dense."""

import torch
from torch import Tensor

from mmlib._typing import Float


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """What weights and sums are computed in: single precision where a dtype has less.

    >>> accumulation_dtype(torch.bfloat16), accumulation_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def mix(weights: Float[Tensor, "n m"], values: Float[Tensor, "m *axes"]) -> Float[Tensor, "n *axes"]:
    """Interpolate: row k is sum_i weights[k, i] * values[i], a point of the convex hull of `values`.

    Source: MultiMix (NeurIPS 2023), section 3: z̃ = Λ z, ỹ = Λ y.

    >>> mix(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 2.0], [4.0, 0.0]]))
    tensor([[2., 1.]])
    """
    # Under autocast a product would be rounded to half precision, and rows of targets no longer sum to 1.
    with torch.autocast(values.device.type, enabled=False):
        return torch.einsum("nm,m...->n...", weights, values)


def mix_dense(
    weights: Float[Tensor, "n m"], attention: Float[Tensor, "m r"], values: Float[Tensor, "m r *axes"]
) -> Float[Tensor, "n r *axes"]:
    """Interpolate at every position j with M̂^j = Λ diag(a^j), each row divided by its sum.

    Λ is shared by all positions. Where a row's sum is zero the mixture keeps its own weights λ (our choice);
    where the attention is zero no gradient reaches it.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.

    >>> mix_dense(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.eye(2))
    tensor([[0.2500, 0.5000]])
    """
    attention = clamp_attention(attention)
    total = mix(weights, attention)
    attention, total = (x.view(*x.shape, *[1] * (values.ndim - 2)) for x in (attention, total))
    return mix(weights, attention * values) / total


def clamp_attention(attention: Tensor) -> Tensor:
    """Attention without zeros: a sum of products with weights that is zero becomes the limit, the weights alone."""
    return attention.to(accumulation_dtype(attention.dtype)).clamp(min=1e-20)
