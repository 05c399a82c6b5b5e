"""Cross-entropy of mixtures, plain and dense.

The rows of Λ sum to 1 and the classifier is affine, so interpolation and classifier commute,
W(Λz) + b = Λ(Wz + b): logits are mixed, (m, c), never embeddings, (n, d). Λ is shared by all positions, so all of
them are one product. Loss and gradients are summed over chunks of mixtures in the forward pass: memory does not
grow with n, and a chunk's work stays in cache.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmlib._autograd import _LabelLossCpu, _SoftTargetLoss, _wanted
from mmlib._typing import Alpha, Float, Labels, Targets
from mmlib.mixing import accumulation_dtype, clamp_attention
from mmlib.sampling import check_alpha, iter_mixing_weights


def _eager(function: Callable) -> Callable:
    """Run `function` as it is inside a step under `torch.compile`: drawing and chunks are no graph.

    The compiler is imported where it is in use only.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call


@_eager
def mixed_cross_entropy(
    logits: Float[Tensor, "m c"],
    targets: Targets | Labels,
    mixing_weights: Float[Tensor, "n m"] | None = None,
    *,
    num_mixtures: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    generator: Generator | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of n mixtures of m examples: H(ỹ_k, softmax(l̃_k)), ỹ = Λ y, l̃ = Λ l.

    Args:
        logits: the affine classifier's output on the examples themselves.
        targets: class indices, or a distribution over classes per example.
        mixing_weights: Λ, its rows summing to 1; or give `num_mixtures` to have it drawn.

    Raises:
        ValueError: shapes that do not fit; on the CPU also rows of weights that do not sum to 1 and class
            indices out of range.

    Source: MultiMix (NeurIPS 2023), section 3.

    >>> logits = torch.randn(8, 3, requires_grad=True)
    >>> mixed_cross_entropy(logits, torch.randint(3, (8,)), num_mixtures=1000).backward()
    """
    _check_weights(mixing_weights, num_mixtures, alpha, logits)
    _check_targets(targets, logits.shape)
    targets = targets.unsqueeze(1) if targets.is_floating_point() else targets
    return _cross_entropy(
        logits.unsqueeze(1), targets, None, mixing_weights, num_mixtures, alpha=alpha, generator=generator
    )


@_eager
def dense_mixed_cross_entropy(
    logits: Float[Tensor, "m r c"],
    targets: Targets | Float[Tensor, "m r c"] | Labels,
    attention: Float[Tensor, "m r"],
    mixing_weights: Float[Tensor, "n m"] | None = None,
    *,
    num_mixtures: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    generator: Generator | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of n mixtures at each of r positions, every example weighted by its attention there.

    At position j a mixture's weights are M̂^j = Λ diag(a^j), each row divided by its sum. Λ is shared by all
    positions. Where a row's sum is zero the mixture keeps its own weights λ (our choice).

    Args:
        logits: the affine classifier's output at every position.
        targets: class indices or distributions per example, inherited by its positions, or per position.
        attention: not negative; gradients flow into it where it asks for them and is not zero.
        mixing_weights: Λ, its rows summing to 1; or give `num_mixtures` to have it drawn.

    Raises:
        ValueError: as `mixed_cross_entropy`.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.

    >>> logits = torch.randn(8, 16, 3, requires_grad=True)
    >>> attention = torch.full((8, 16), 1 / 16)
    >>> dense_mixed_cross_entropy(logits, torch.randint(3, (8,)), attention, num_mixtures=1000).backward()
    """
    m, r, _ = logits.shape
    if attention.shape != (m, r):
        raise ValueError(f"attention has shape {tuple(attention.shape)}; logits {tuple(logits.shape)} take {(m, r)}")
    _check_weights(mixing_weights, num_mixtures, alpha, logits)
    _check_targets(targets, logits.shape)
    return _cross_entropy(logits, targets, attention, mixing_weights, num_mixtures, alpha=alpha, generator=generator)


def as_distributions(targets: Tensor, shape: torch.Size) -> Tensor:
    """Targets as distributions that broadcast with logits of `shape`, (m, c) or (m, r, c).

    Raises:
        ValueError: as `_check_targets`.

    >>> as_distributions(torch.tensor([1]), torch.Size([1, 3]))
    tensor([[0., 1., 0.]])
    """
    _check_targets(targets, shape)
    if not targets.is_floating_point() and targets.ndim == 1:
        targets = F.one_hot(targets.long(), shape[-1]).to(torch.get_default_dtype())
    return targets.unsqueeze(1) if targets.ndim < len(shape) else targets


def _check_targets(targets: Tensor, shape: torch.Size) -> None:
    """Refuse shapes that do not fit; on the CPU also class indices out of range."""
    m, c = shape[0], shape[-1]
    if not targets.is_floating_point() and targets.shape == (m,):
        if targets.device.type == "cpu" and m and not 0 <= int(targets.min()) <= int(targets.max()) < c:
            low, high = int(targets.min()), int(targets.max())
            raise ValueError(f"targets hold classes {low} to {high}; logits {tuple(shape)} take classes 0 to {c - 1}")
    elif targets.shape != (m, c) and targets.shape != shape:
        takes = f"({m},) integers or {(m, c)}" + (f" or {tuple(shape)}" if len(shape) == 3 else "")
        raise ValueError(f"targets have shape {tuple(targets.shape)}; logits {tuple(shape)} take {takes}")


def _check_weights(weights: Tensor | None, n: int | None, alpha: Alpha, logits: Tensor) -> None:
    if (weights is None) == (n is None):
        raise ValueError(
            "mixing_weights and num_mixtures are both " + ("missing" if n is None else "given") + "; give one of them"
        )
    m = len(logits)
    if weights is None:
        check_alpha(n, m, alpha)
    elif weights.ndim != 2 or weights.shape[1] != m or not len(weights):
        got = tuple(weights.shape)
        raise ValueError(f"weights have shape {got}; logits {tuple(logits.shape)} take (n, {m}), n > 0")
    elif weights.device.type == "cpu" and not torch.allclose(weights.sum(1), weights.new_ones(()), atol=1e-3):
        raise ValueError(f"weights of shape {tuple(weights.shape)} have rows that do not sum to 1")


def _cross_entropy(
    logits: Tensor, targets: Tensor, attention: Tensor | None, weights: Tensor | None, n: int | None, **drawn
) -> Tensor:
    """What one product with Λ mixes: attention (m, r), and times attention the logits and targets, (m, r, c).

    They go on as matrices whose columns are examples, one class after the other: (r, m) and (c r, m). Sums over
    classes then run along whole rows.
    """
    dtype = accumulation_dtype(logits.dtype)
    m, _, c = logits.shape
    with torch.autocast(logits.device.type, enabled=False):
        if weights is None:
            blocks = iter_mixing_weights(n, m, device=logits.device, dtype=dtype, **drawn)
        else:
            weights = weights.to(dtype).contiguous()
            blocks, n = [weights], len(weights)
        logits, attention = logits.to(dtype), None if attention is None else clamp_attention(attention).to(dtype)
        on_labels = not targets.is_floating_point() and not any(_wanted(attention, weights))
        # It takes for granted that rows sum to 1; given ones do so only nearly, unless attention divides them.
        summed = weights is None or attention is not None
        if on_labels and summed and logits.device.type == "cpu" and dtype == torch.float32:
            attention = logits.new_ones(m, 1) if attention is None else attention.contiguous()
            factors = (attention.unsqueeze(2) * logits).permute(2, 1, 0).reshape(-1, m)
            return _LabelLossCpu.apply(factors, targets.long().contiguous(), attention, blocks, n)
        targets = as_distributions(targets, logits.shape).to(dtype).expand_as(logits)
        if attention is not None:
            logits, targets = attention.unsqueeze(2) * logits, attention.unsqueeze(2) * targets
            attention = attention.T.contiguous()
        values = [x.permute(2, 1, 0).reshape(-1, m) for x in (logits, targets)] + [attention, weights]
        return _SoftTargetLoss.apply(*values, blocks, n, c, _wanted(*values))
