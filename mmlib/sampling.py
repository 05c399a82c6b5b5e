"""Dirichlet sampling of mixing weights Λ: points of the simplex, one for every mixture."""

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from types import ModuleType

import torch
from torch import Generator, Tensor

from mmlib import _backend
from mmlib._checks import as_number, check_int, check_type
from mmlib._typing import Alpha, Device, Float
from mmlib.mixing import accumulation_dtype

# Weights drawn together: on the CPU few enough to stay in cache, elsewhere enough to keep the device busy.
CPU_BLOCK_ELEMENTS, GPU_BLOCK_ELEMENTS = 2**17, 2**23

BOOST_BELOW = 0.5  # below this concentration most gamma draws would underflow: they are made in logarithms
# Beyond these concentrations a mixture is one example, or the mean of all, to the last digit of a double.
MIN_CONCENTRATION, MAX_CONCENTRATION = 1e-30, 1e30


def sample_mixing_weights(
    num_mixtures: int,
    num_examples: int,
    alpha: Alpha = (0.5, 2.0),
    *,
    generator: Generator | None = None,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n m"]:
    """Draw points of the simplex, each from a symmetric Dirichlet distribution.

    On the CPU float32 weights are drawn by compiled code where numba is installed, else by torch: two streams of
    random numbers, each decided by the generator. PyTorch cannot draw gamma variates on Apple's GPUs; their weights
    are drawn on the CPU, with a CPU generator, and moved.

    Args:
        num_mixtures: n, the number of mixtures to draw.
        num_examples: m, the number of examples to interpolate.
        alpha: the Dirichlet's concentration; 1 is uniform on the simplex. A pair (low, high) draws the
            concentration of each mixture from U(low, high).
        generator: the only source of randomness; None means torch's global generator.
        device: the weights' device; by default the generator's, else torch's default device.
        dtype: the weights' type; by default torch's default. Half precision is drawn in float32 and rounded.

    Returns:
        Λ, shape (n, m), one mixture a row. Each row sums to 1.

    Raises:
        TypeError: a count is not an integer, or alpha is neither a number nor a pair of numbers.
        ValueError: a count is below 1, a concentration is not positive and finite, or the generator is on another
            device.

    Source: MultiMix (NeurIPS 2023), section 3: λ_k ~ Dirichlet(α), k = 1..n.

    >>> weights = sample_mixing_weights(1000, 128, generator=torch.Generator().manual_seed(0))
    >>> weights.shape
    torch.Size([1000, 128])
    """
    blocks = iter_mixing_weights(num_mixtures, num_examples, alpha, generator=generator, device=device, dtype=dtype)
    first = next(blocks)
    if len(first) == num_mixtures:
        return first
    weights = first.new_empty(int(num_mixtures), int(num_examples))  # too many fail here, before they are drawn
    filled = 0
    for block in chain([first], blocks):
        weights[filled : filled + len(block)] = block
        filled += len(block)
    return weights


def iter_mixing_weights(
    num_mixtures: int,
    num_examples: int,
    alpha: Alpha = (0.5, 2.0),
    *,
    generator: Generator | None = None,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Tensor]:
    """Draw the weights of `sample_mixing_weights` block by block of rows, so that they are never all in memory.

    Args and errors are those of `sample_mixing_weights`; the same generator gives the same weights.

    Returns:
        An iterator over blocks, each of shape (rows, m).

    >>> blocks = iter_mixing_weights(3000, 128, generator=torch.Generator().manual_seed(0))
    >>> [len(block) for block in blocks]
    [1024, 1024, 952]
    """
    check_int(1, num_mixtures=num_mixtures, num_examples=num_examples)
    num_mixtures, num_examples = int(num_mixtures), int(num_examples)
    low, high = check_alpha(alpha)
    source, target = resolve_devices(generator, device)
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point type, got {dtype}")
    rows = max(1, (CPU_BLOCK_ELEMENTS if source.type == "cpu" else GPU_BLOCK_ELEMENTS) // num_examples)
    # One block needs no range: one whose step depends on m would be compiled anew for every m.
    whole = rows >= num_mixtures
    sizes = [num_mixtures] if whole else (min(rows, num_mixtures - start) for start in range(0, num_mixtures, rows))
    kernels = _backend.cpu_kernels() if source.type == "cpu" and accumulation_dtype(dtype) == torch.float32 else None
    if kernels is not None:
        blocks = _iter_numba(kernels, sizes, num_examples, low, high, generator)
    else:
        blocks = _iter_torch(sizes, num_examples, low, high, generator, source, accumulation_dtype(dtype))
    return (block.to(target, dtype) for block in blocks)


def check_alpha(alpha: Alpha, name: str = "alpha", pair: bool = True) -> tuple[float, float]:
    """Return the interval (low, high) of concentrations that `alpha` means; a number is an interval of one point.

    Args:
        alpha: the concentration, or a pair (low, high).
        name: what errors call it.
        pair: whether a pair will do.

    Raises:
        TypeError: alpha is neither a number nor a pair of numbers.
        ValueError: a concentration is not positive and finite, or low is above high.

    >>> check_alpha(1), check_alpha((0.5, 2.0))
    ((1.0, 1.0), (0.5, 2.0))
    """
    match [as_number(x) for x in (alpha if pair and isinstance(alpha, tuple | list) else (alpha, alpha))]:
        case [int() | float() as low, int() | float() as high] if 0 < low <= high < math.inf:
            return float(low), float(high)
        case [None, _] | [_, None]:
            error = TypeError
        case _:
            error = ValueError
    or_pair = " or a pair (low, high) with 0 < low <= high" if pair else ""
    raise error(f"{name} must be a positive number{or_pair}, got {alpha!r}")


def resolve_devices(generator: Generator | None, device: Device | None) -> tuple[torch.device, torch.device]:
    """Return the device to draw on, which must be the generator's, and the device of the result."""
    check_type("generator", generator, Generator | None)
    if device is None:
        device = torch.get_default_device() if generator is None else generator.device
    target = torch.device(device)
    source = torch.device("cpu") if target.type == "mps" else target
    if generator is not None:
        if generator.device.type != source.type or source.index not in (None, generator.device.index):
            raise ValueError(f"generator must be on {source} to draw weights for {target}, got {generator.device}")
        source = generator.device
    return source, target


def _iter_numba(
    kernels: ModuleType, sizes: Iterable[int], num_examples: int, low: float, high: float, generator: Generator | None
) -> Iterator[Tensor]:
    """Yield float32 blocks of the given numbers of rows, all drawn by numba from one seed."""
    seed = torch.empty((), dtype=torch.long, device="cpu").random_(-(2**63), None, generator=generator).item()
    first = 0
    for size in sizes:
        block = torch.empty(size, num_examples, dtype=torch.float32, device="cpu")
        kernels.draw_dirichlet(block.numpy(), seed, first, low, high)
        first += size
        yield block


def _iter_torch(
    sizes: Iterable[int],
    num_examples: int,
    low: float,
    high: float,
    generator: Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """Yield blocks of the given numbers of rows, made of torch's gamma variates; for small α in logarithms."""
    low, high = (min(max(x, MIN_CONCENTRATION), MAX_CONCENTRATION) for x in (low, high))
    boost = low < BOOST_BELOW
    for size in sizes:
        # In float32 a concentration could be rounded to 0 or infinity.
        concentration = torch.empty(size, 1, dtype=torch.double, device=device)
        if torch.compiler.is_compiling():  # ends that depend on m would be compiled anew for every m
            concentration.uniform_(generator=generator).mul_(high - low).add_(low)
        else:
            concentration.uniform_(low, high, generator=generator)
        shape = torch.empty(size, num_examples, dtype=dtype, device=device)
        shape.copy_(concentration + 1 if boost else concentration)
        gamma = torch._standard_gamma(shape, generator=generator)
        if boost:  # Gamma(α) = Gamma(α + 1) · U^(1/α)
            uniform = torch.empty_like(gamma).uniform_(generator=generator)
            power = concentration.reciprocal().to(dtype)
            yield gamma.log_().addcmul_(uniform.neg_().log1p_(), power).softmax(dim=1)
        else:
            yield gamma.div_(gamma.sum(dim=1, keepdim=True))
