"""Weights on the simplex, interpolation and attention: tensors in, tensors out."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Generator, Tensor

from mmlib.annotations import Alpha, Device, Float
from mmlib.parameters import check_whole

# Weights drawn together: on the CPU as many as stay in cache, elsewhere as many as keep the device busy.
BLOCK_ON_CPU, BLOCK = 2**17, 2**23
SMALL = 0.5  # below this concentration torch's gamma draws are made in logarithms

Query = Float[Tensor, "m d"] | Float[Tensor, " d"]  # of every example, or one of all


def sample_weights(
    n: int,
    m: int,
    alpha: Alpha = (0.5, 2.0),
    *,
    generator: Generator | None = None,
    device: Device | None = None,
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
        dtype: by default torch's default; weights in half precision are drawn in single precision and rounded.

    Returns:
        Λ, one mixture a row, every row summing to 1.

    Raises:
        ValueError: n or m below 1, or a concentration that is not positive and finite.

    Source: MultiMix (NeurIPS 2023), section 3: λ_k ~ Dirichlet(α), k = 1..n.

    >>> Λ = sample_weights(1000, 128, generator=torch.Generator().manual_seed(0))
    >>> Λ.shape
    torch.Size([1000, 128])
    """
    blocks = list(sample_blocks(n, m, alpha, generator, device, dtype))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def sample_blocks(
    n: int, m: int, alpha: Alpha, generator: Generator | None, device: Device | None, dtype: torch.dtype | None
) -> Iterator[Tensor]:
    """The same weights as `sample_weights`, drawn from the same generator, a block of rows at a time."""
    low, high = check_mixture(n, m, alpha)
    device = torch.device(device or (generator.device if generator is not None else torch.get_default_device()))
    dtype = dtype or torch.get_default_dtype()
    rows = max(1, (BLOCK_ON_CPU if device.type == "cpu" else BLOCK) // m)
    sizes = [min(rows, n - start) for start in range(0, n, rows)]
    empty = functools.partial(torch.empty, device=device, dtype=widened(dtype))
    blocks = _compiled_blocks if device.type == "cpu" and widened(dtype) == torch.float32 else _gamma_blocks
    return (block.to(dtype) for block in blocks(sizes, m, low, high, generator, empty))


def _compiled_blocks(
    sizes: list[int], m: int, low: float, high: float, generator: Generator | None, empty: Callable[..., Tensor]
) -> Iterator[Tensor]:
    """Blocks of so many rows, all of one seed."""
    from mmlib import compiled  # loading it takes a second, which only those who draw here need

    seed = empty((), dtype=torch.long).random_(-(2**63), None, generator=generator).item()
    for first, size in zip(accumulate(sizes, initial=0), sizes):
        block = empty(size, m)
        compiled.draw_dirichlet(block.numpy(), seed, first, low, high)
        yield block


def _gamma_blocks(
    sizes: list[int], m: int, low: float, high: float, generator: Generator | None, empty: Callable[..., Tensor]
) -> Iterator[Tensor]:
    """Blocks of so many rows, each made of torch's own gamma draws; in logarithms where concentrations may be small."""
    for size in sizes:
        concentration = empty(size, 1).uniform_(generator=generator).mul_(high - low).add_(low)
        small = int(low < SMALL)
        gamma = torch._standard_gamma((concentration + small).expand(size, m).contiguous(), generator=generator)
        if small:  # Gamma(α) = Gamma(α + 1) · U^(1/α): most draws would underflow
            uniform = torch.empty_like(gamma).uniform_(generator=generator)
            yield gamma.log_().add_(uniform.neg_().log1p_().div_(concentration)).softmax(dim=1)
        else:
            yield gamma.div_(gamma.sum(dim=1, keepdim=True))


def check_mixture(n: int, m: int, alpha: float | Sequence[float]) -> tuple[float, float]:
    """The interval of concentrations that `alpha` means.

    Raises:
        ValueError: n or m below 1, or a concentration that is not positive and finite.
    """
    check_whole(1, n=n, m=m)
    low, high = alpha if isinstance(alpha, tuple | list) and len(alpha) == 2 else (alpha, alpha)
    if not all(isinstance(x, int | float) for x in (low, high)) or not 0 < low <= high or not math.isfinite(high):
        raise ValueError(f"alpha is {alpha!r}; it takes a positive number or a pair (low, high) with 0 < low <= high")
    return float(low), float(high)


def sample_tuples(n: int, m: int, length: int, alpha: Alpha = (0.5, 2.0), **drawn) -> Float[Tensor, "n m"]:
    """Draw n points of the (m-1)-simplex, each on a random face of `length` examples, all others' weights zero.

    Args:
        length: examples of a mixture, at most m.
        drawn: all else that `sample_weights` takes.

    >>> Λ = sample_tuples(1000, 128, 2, generator=torch.Generator().manual_seed(0))
    >>> Λ.count_nonzero(dim=1).unique()
    tensor([2])
    """
    weights = sample_weights(n, length, alpha, **drawn)
    keys = torch.rand(n, m, generator=drawn.get("generator"), device=weights.device)
    return weights.new_zeros(n, m).scatter_(1, keys.topk(length, dim=1).indices, weights)


def widened(dtype: torch.dtype) -> torch.dtype:
    """What weights and sums are computed in: single precision where a dtype has less.

    >>> widened(torch.bfloat16), widened(torch.float64)
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


def mix_densely(
    weights: Float[Tensor, "n m"], attention: Float[Tensor, "m r"], values: Float[Tensor, "m r *axes"]
) -> Float[Tensor, "n r *axes"]:
    """Interpolate at every position j with M̂^j = Λ diag(a^j), each row divided by its sum.

    Λ is shared by all positions. Where a row's sum is zero the mixture keeps its own weights λ (our choice);
    where the attention is zero no gradient reaches it.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.

    >>> mix_densely(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.eye(2))
    tensor([[0.2500, 0.5000]])
    """
    attention = somewhere(attention)
    total = mix(weights, attention)
    attention, total = (x.view(*x.shape, *[1] * (values.ndim - 2)) for x in (attention, total))
    return mix(weights, attention * values) / total


def somewhere(attention: Tensor) -> Tensor:
    """Attention without zeros: a sum of products with weights that is zero becomes the limit, the weights alone."""
    return attention.to(widened(attention.dtype)).clamp(min=1e-20)


def attention_map(features: Float[Tensor, "m d r"], query: Query) -> Float[Tensor, "m r"]:
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
    # No division by zero, not even where it is discarded: its gradient would be NaN.
    return torch.where(total > 0, scores / total.where(total > 0, torch.ones_like(total)), uniform)


def softmax_attention_map(features: Float[Tensor, "m d r"], query: Query) -> Float[Tensor, "m r"]:
    """How much every position of every example resembles the query: softmax of the inner product over positions.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation; at temperature 1 (our choice).

    >>> softmax_attention_map(torch.tensor([[[1.0, 1.0]]]), torch.tensor([3.0]))
    tensor([[0.5000, 0.5000]])
    """
    return torch.einsum("mdr,md->mr", features, query.expand(len(features), -1)).softmax(dim=1)
