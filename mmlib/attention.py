"""Attention maps: how much each position of a feature map counts in dense interpolation."""

import torch
from torch import Tensor

from mmlib._backend import without_autocast
from mmlib._checks import check_tensor
from mmlib._typing import Bool, Float
from mmlib.mixing import accumulation_dtype

# One query for each example, or one for all.
Query = Float[Tensor, "m d"] | Float[Tensor, " d"]


def attention_map(
    features: Float[Tensor, "m d r"], query: Query, mask: Bool[Tensor, "m r"] | None = None
) -> Float[Tensor, "m r"]:
    """Compute how much every position resembles the query: ReLU of the inner product, summing to 1 over positions.

    An example whose attention would be zero everywhere attends to all its real positions alike.

    Args:
        features: z, shape (m, d, r).
        query: u, shape (m, d) or (d,): the mean of the features over positions (global average pooling, GAP), or the
            classifier's weights for the example's class (class activation map, CAM).
        mask: True at real positions, False at padding, shape (m, r).

    Returns:
        Attention, shape (m, r), computed in float32 or wider, also under autocast. Padding gets 0, and an example
        that is all padding gets 0 everywhere.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the query or the mask does not fit the features.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation: a = h(zᵀu).

    >>> attention_map(torch.tensor([[[1.0, 3.0, -2.0]]]), torch.tensor([1.0]))
    tensor([[0.2500, 0.7500, 0.0000]])
    """
    scores = _scores(features, query, mask).relu()
    tiny = torch.finfo(scores.dtype).tiny
    scores = scores.masked_fill(scores.sum(dim=1, keepdim=True) < tiny, 1)
    if mask is not None:
        scores = scores.masked_fill(~mask, 0)
    return scores / scores.sum(dim=1, keepdim=True).clamp(min=tiny)  # not 0 where all is padding


def softmax_attention_map(
    features: Float[Tensor, "m d r"], query: Query, mask: Bool[Tensor, "m r"] | None = None
) -> Float[Tensor, "m r"]:
    """Compute how much every position resembles the query: softmax of the inner product over positions.

    Args:
        features, query, mask: as in `attention_map`.

    Returns:
        Attention, as `attention_map` returns it.

    Raises:
        TypeError: the mask is not boolean.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation; at temperature 1.

    >>> softmax_attention_map(torch.tensor([[[1.0, 1.0]]]), torch.tensor([3.0]))
    tensor([[0.5000, 0.5000]])
    """
    scores = _scores(features, query, mask)
    if mask is None:
        return scores.softmax(dim=1)
    # The lowest finite number, not -inf: an example that is all padding would become NaN.
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=1).masked_fill(~mask, 0)


def _scores(features: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
    """Return inner products of features and queries, (m, r), in float32 or wider; 0 at padding."""
    check_tensor("features", features, ("m", "d", "r"))
    m, d, r = features.shape
    check_tensor("query", query)
    check_tensor("query", query, (m, d) if query.ndim > 1 else (d,), hint=f"; features have shape {(m, d, r)}")
    if mask is not None:
        check_tensor("mask", mask, (m, r), "boolean")
        features = features.masked_fill(~mask.unsqueeze(1), 0)  # padding may hold NaN
    dtype = accumulation_dtype(features.dtype)
    with without_autocast(features.device.type):  # a sum over d overflows float16
        return torch.einsum("mdr,md->mr", features.to(dtype), query.to(dtype).expand(len(features), -1))
