"""Attention maps: how much each position of a feature map counts in dense interpolation."""

import torch
from torch import Tensor

from mmlib._typing import Float

Query = Float[Tensor, "m d"] | Float[Tensor, " d"]  # of every example, or one of all


def attention_map(features: Float[Tensor, "m d r"], query: Query, mask: Tensor | None = None) -> Float[Tensor, "m r"]:
    """How much every position of every example resembles the query: ReLU of the inner product, summing to 1.

    The query is the mean of the features over positions (global average pooling, GAP), or the classifier's
    weights of the example's class (the class activation map, CAM). An example whose attention is zero
    everywhere attends to every position alike (our choice).

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation: a = h(zᵀu).

    >>> attention_map(torch.tensor([[[1.0, 3.0, -2.0]]]), torch.tensor([1.0]))
    tensor([[0.2500, 0.7500, 0.0000]])
    """
    scores = torch.einsum("mdr,md->mr", features, query.expand(len(features), -1)).relu()
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    scores = scores.masked_fill(~mask, 0)
    total = scores.sum(dim=1, keepdim=True)
    uniform = mask / mask.sum(dim=1, keepdim=True).clamp(min=1).to(scores.dtype)
    # No division by zero, not even where it is discarded: its gradient would be NaN.
    return torch.where(total > 0, scores / total.where(total > 0, torch.ones_like(total)), uniform)


def softmax_attention_map(
    features: Float[Tensor, "m d r"], query: Query, mask: Tensor | None = None
) -> Float[Tensor, "m r"]:
    """How much every position of every example resembles the query: softmax of the inner product over positions.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation; at temperature 1 (our choice).

    >>> softmax_attention_map(torch.tensor([[[1.0, 1.0]]]), torch.tensor([3.0]))
    tensor([[0.5000, 0.5000]])
    """
    scores = torch.einsum("mdr,md->mr", features, query.expand(len(features), -1))
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    return scores.masked_fill(~mask, -1e30).softmax(dim=1).masked_fill(~mask, 0)
