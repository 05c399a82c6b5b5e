"""Mixing weights: points of the simplex, drawn from Dirichlet distributions."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Generator, Tensor

from mmlib._backend import cpu_kernels
from mmlib._checks import check_int
from mmlib._typing import Alpha, Device, Float
from mmlib.mixing import accumulation_dtype

# Weights drawn together: on the CPU as many as stay in cache, elsewhere as many as keep the device busy.
BLOCK_ON_CPU, BLOCK = 2**17, 2**23


SMALL = 0.5  # below this concentration torch's gamma draws are made in logarithms


def sample_mixing_weights(
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

    >>> Λ = sample_mixing_weights(1000, 128, generator=torch.Generator().manual_seed(0))
    >>> Λ.shape
    torch.Size([1000, 128])
    """
    blocks = list(iter_mixing_weights(n, m, alpha, generator=generator, device=device, dtype=dtype))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def iter_mixing_weights(
    n: int,
    m: int,
    alpha: Alpha = (0.5, 2.0),
    *,
    generator: Generator | None = None,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Tensor]:
    """The same weights as `sample_mixing_weights`, drawn from the same generator, a block of rows at a time."""
    check_int(1, num_mixtures=n, num_examples=m)
    low, high = check_alpha(alpha)
    device = torch.device(device or (generator.device if generator is not None else torch.get_default_device()))
    dtype = dtype or torch.get_default_dtype()
    rows = max(1, (BLOCK_ON_CPU if device.type == "cpu" else BLOCK) // m)
    sizes = [min(rows, n - start) for start in range(0, n, rows)]
    empty = functools.partial(torch.empty, device=device, dtype=accumulation_dtype(dtype))
    blocks = (
        _iter_numba
        if cpu_kernels() is not None and device.type == "cpu" and accumulation_dtype(dtype) == torch.float32
        else _iter_torch
    )
    return (block.to(dtype) for block in blocks(sizes, m, low, high, generator, empty))


def _iter_numba(
    sizes: list[int], m: int, low: float, high: float, generator: Generator | None, empty: Callable[..., Tensor]
) -> Iterator[Tensor]:
    """Blocks of so many rows, all of one seed."""
    _cpu_kernels = cpu_kernels()
    seed = empty((), dtype=torch.long).random_(-(2**63), None, generator=generator).item()
    for first, size in zip(accumulate(sizes, initial=0), sizes):
        block = empty(size, m)
        _cpu_kernels.draw_dirichlet(block.numpy(), seed, first, low, high)
        yield block


def _iter_torch(
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


def check_alpha(alpha: float | Sequence[float]) -> tuple[float, float]:
    """The interval of concentrations that `alpha` means.

    Raises:
        ValueError: a concentration that is not positive and finite.
    """
    low, high = alpha if isinstance(alpha, tuple | list) and len(alpha) == 2 else (alpha, alpha)
    if not all(isinstance(x, int | float) for x in (low, high)) or not 0 < low <= high or not math.isfinite(high):
        raise ValueError(f"alpha is {alpha!r}; it takes a positive number or a pair (low, high) with 0 < low <= high")
    return float(low), float(high)


def sample_sparse_weights(n: int, m: int, length: int, alpha: Alpha = (0.5, 2.0), **drawn) -> Float[Tensor, "n m"]:
    """Draw n points of the (m-1)-simplex, each on a random face of `length` examples, all others' weights zero.

    Args:
        length: examples of a mixture, at most m.
        drawn: all else that `sample_mixing_weights` takes.

    >>> Λ = sample_sparse_weights(1000, 128, 2, generator=torch.Generator().manual_seed(0))
    >>> Λ.count_nonzero(dim=1).unique()
    tensor([2])
    """
    weights = sample_mixing_weights(n, length, alpha, **drawn)
    keys = torch.rand(n, m, generator=drawn.get("generator"), device=weights.device)
    return weights.new_zeros(n, m).scatter_(1, keys.topk(length, dim=1).indices, weights)
