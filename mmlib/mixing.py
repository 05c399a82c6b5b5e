"""Weights on the simplex, interpolation and attention: tensors in, tensors out."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmlib.annotations import Float


def sample_weights(
    n: int,
    m: int,
    alpha: float | tuple[float, float] = (0.5, 2.0),
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n m"]:
    """Draw n points of the (m-1)-simplex, each from a symmetric Dirichlet distribution.

    Args:
        n: mixtures to draw.
        m: examples interpolated.
        alpha: the Dirichlet's concentration; 1 is uniform on the simplex. A pair draws every point's own
            concentration from U(low, high).
        generator: the only source of randomness; its device must be `device`. None uses torch's global one.
        device: where to draw; by default the generator's device, else torch's default.
        dtype: by default torch's default.

    Returns:
        Λ, one mixture a row, every row summing to 1.

    Raises:
        ValueError: n or m below 1, or a concentration that is not positive and finite.

    Source: MultiMix (NeurIPS 2023), section 3: λ_k ~ Dirichlet(α), k = 1..n.

    >>> Λ = sample_weights(1000, 128, generator=torch.Generator().manual_seed(0))
    >>> Λ.shape
    torch.Size([1000, 128])
    """
    low, high = check_mixture(n, m, alpha)
    if device is None and generator is not None:
        device = generator.device
    like = {"generator": generator, "device": device, "dtype": dtype}
    concentration = torch.rand(n, 1, **like) * (high - low) + low
    # Gamma(α) = Gamma(α + 1) · U^(1/α), in logarithms: at a small α most draws underflow.
    gamma = torch._standard_gamma((concentration + 1).expand(n, m).contiguous(), generator=generator)
    log_gamma = gamma.log_().add_((1 - torch.rand(n, m, **like)).log_().div_(concentration))
    return log_gamma.softmax(dim=1)


def check_mixture(n: int, m: int, alpha: float | Sequence[float]) -> tuple[float, float]:
    """The interval of concentrations that `alpha` means, once n, m and alpha are known to be possible."""
    for name, value in (("n", n), ("m", m)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it takes a whole number of at least 1")
    low, high = alpha if isinstance(alpha, tuple | list) and len(alpha) == 2 else (alpha, alpha)
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if not numbers or not 0 < low <= high or not math.isfinite(high):
        raise ValueError(f"alpha is {alpha!r}; it takes a positive number or a pair (low, high) with 0 < low <= high")
    return float(low), float(high)


def mix(weights: Float[Tensor, "n m"], values: Float[Tensor, "m *axes"]) -> Float[Tensor, "n *axes"]:
    """Interpolate: row k is sum_i weights[k, i] * values[i], a point of the convex hull of `values`.

    Source: MultiMix (NeurIPS 2023), section 3: z̃ = Λ z, ỹ = Λ y.

    >>> mix(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 2.0], [4.0, 0.0]]))
    tensor([[2., 1.]])
    """
    return torch.einsum("nm,m...->n...", weights, values)


def attention_map(
    features: Float[Tensor, "m d r"], query: Float[Tensor, "m d"] | Float[Tensor, " d"]
) -> Float[Tensor, "m r"]:
    """How much every position of every example resembles the query: ReLU of the inner product, summing to 1.

    The query is the mean of the features over positions (global average pooling, GAP), or the classifier's
    weights of the example's class (the class activation map, CAM). An example whose attention is zero
    everywhere attends to every position alike (our choice).

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation: a = h(zᵀu).

    >>> attention_map(torch.tensor([[[1.0, 3.0, -2.0]]]), torch.tensor([1.0]))
    tensor([[0.2500, 0.7500, 0.0000]])
    """
    scores = torch.einsum("mdr,md->mr", features, query.expand(len(features), -1)).relu()
    total = scores.sum(dim=1, keepdim=True)
    uniform = torch.full_like(scores, 1 / scores.shape[1])
    return torch.where(total > 0, scores / total.where(total > 0, torch.ones_like(total)), uniform)
