"""Cross-entropy of mixtures, plain and dense.

The rows of Λ sum to 1 and the classifier is affine, so interpolation and classifier commute,
W(Λz) + b = Λ(Wz + b): logits are mixed, (m, c), never embeddings, (n, d).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.annotations import Float, Int
from mmlib.mixing import attention_map, check_mixture, mix, sample_weights

# Where a mixture's weights and a position's attention have no example in common, their product has no sum to
# divide by. This much attention everywhere gives the mixture's own weights there, and changes nothing elsewhere.
NO_ATTENTION = 1e-20


def mixed_cross_entropy(
    logits: Float[Tensor, "m c"],
    targets: Float[Tensor, "m c"] | Int[Tensor, " m"],
    weights: Float[Tensor, "n m"] | None = None,
    *,
    n: int | None = None,
    alpha: float | tuple[float, float] = (0.5, 2.0),
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of n mixtures of m examples: H(ỹ_k, softmax(l̃_k)), ỹ = Λ y, l̃ = Λ l.

    Args:
        logits: the affine classifier's output on the examples themselves.
        targets: class indices, or a distribution over classes per example.
        weights: Λ, its rows summing to 1; or give `n` to have it drawn from `sample_weights(n, m, alpha)`.

    Raises:
        ValueError: shapes that do not fit; on the CPU also rows of weights that do not sum to 1 and class
            indices out of range.

    Source: MultiMix (NeurIPS 2023), section 3.

    >>> logits = torch.randn(8, 3, requires_grad=True)
    >>> mixed_cross_entropy(logits, torch.randint(3, (8,)), n=1000).backward()
    """
    weights = _weights(logits, weights, n, alpha, generator)
    targets = distributions(targets, logits.shape).to(logits.dtype)
    return F.cross_entropy(mix(weights, logits), mix(weights, targets))


def dense_mixed_cross_entropy(
    logits: Float[Tensor, "m r c"],
    targets: Float[Tensor, "m c"] | Float[Tensor, "m r c"] | Int[Tensor, " m"],
    attention: Float[Tensor, "m r"],
    weights: Float[Tensor, "n m"] | None = None,
    *,
    n: int | None = None,
    alpha: float | tuple[float, float] = (0.5, 2.0),
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of n mixtures at each of r positions, every example weighted by its attention there.

    At position j a mixture's weights are M̂^j = Λ diag(a^j), each row divided by its sum. Λ is shared by all
    positions. Where a row's sum is zero the mixture keeps its own weights λ (our choice).

    Args:
        logits: the affine classifier's output at every position.
        targets: class indices or distributions per example, inherited by its positions, or per position.
        attention: not negative; gradients flow into it where it asks for them.
        weights: Λ, its rows summing to 1; or give `n` to have it drawn from `sample_weights(n, m, alpha)`.

    Raises:
        ValueError: as `mixed_cross_entropy`.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.

    >>> logits = torch.randn(8, 16, 3, requires_grad=True)
    >>> attention = torch.full((8, 16), 1 / 16)
    >>> dense_mixed_cross_entropy(logits, torch.randint(3, (8,)), attention, n=1000).backward()
    """
    m, r, _ = logits.shape
    if attention.shape != (m, r):
        raise ValueError(f"attention has shape {tuple(attention.shape)}; logits {tuple(logits.shape)} take {(m, r)}")
    weights = _weights(logits, weights, n, alpha, generator)
    targets = distributions(targets, logits.shape).to(logits.dtype)
    attention = (attention + NO_ATTENTION).unsqueeze(2)
    total = mix(weights, attention)
    mixed_logits = mix(weights, attention * logits) / total
    mixed_targets = mix(weights, attention * targets) / total
    return F.cross_entropy(mixed_logits.flatten(0, 1), mixed_targets.flatten(0, 1))


def distributions(targets: Tensor, shape: torch.Size) -> Tensor:
    """Targets as distributions that broadcast with logits of `shape`, (m, c) or (m, r, c)."""
    m, c = shape[0], shape[-1]
    if targets.dtype == torch.long and targets.shape == (m,):
        if targets.device.type == "cpu" and m and not 0 <= int(targets.min()) <= int(targets.max()) < c:
            low, high = int(targets.min()), int(targets.max())
            raise ValueError(f"targets hold classes {low} to {high}; logits {tuple(shape)} take classes 0 to {c - 1}")
        targets = F.one_hot(targets, c).to(torch.get_default_dtype())
    if targets.shape != (m, c) and targets.shape != shape:
        takes = f"({m},) integers or {(m, c)}" + (f" or {tuple(shape)}" if len(shape) == 3 else "")
        raise ValueError(f"targets have shape {tuple(targets.shape)}; logits {tuple(shape)} take {takes}")
    return targets.unsqueeze(1) if targets.ndim < len(shape) else targets


def _weights(logits: Tensor, weights: Tensor | None, n: int | None, alpha, generator) -> Tensor:
    m = len(logits)
    if (weights is None) == (n is None):
        raise ValueError("weights and n are both " + ("missing" if n is None else "given") + "; give one of them")
    if weights is None:
        return sample_weights(n, m, alpha, generator=generator, device=logits.device, dtype=logits.dtype)
    if weights.ndim != 2 or weights.shape[1] != m:
        raise ValueError(f"weights have shape {tuple(weights.shape)}; logits {tuple(logits.shape)} take (n, {m})")
    if weights.device.type == "cpu" and not torch.allclose(weights.sum(1), weights.new_ones(()), atol=1e-3):
        raise ValueError(f"weights of shape {tuple(weights.shape)} have rows that do not sum to 1")
    return weights


class MultiMix(nn.Module):
    """MultiMix as a criterion: a drop-in for `nn.CrossEntropyLoss` in anybody's training loop.

    Args:
        n, alpha, generator: as in `sample_weights`; the generator lives on the logits' device.

    >>> criterion = MultiMix(n=1000)
    >>> criterion(torch.randn(8, 3), torch.randint(3, (8,))).shape
    torch.Size([])
    """

    def __init__(
        self,
        n: int = 1000,
        alpha: float | tuple[float, float] = (0.5, 2.0),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_mixture(n, 1, alpha)
        self.n, self.alpha, self.generator = n, alpha, generator

    def forward(
        self, logits: Float[Tensor, "m c"], targets: Float[Tensor, "m c"] | Int[Tensor, " m"]
    ) -> Float[Tensor, ""]:
        """The loss of one mini-batch."""
        return mixed_cross_entropy(logits, targets, n=self.n, alpha=self.alpha, generator=self.generator)

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"n={self.n}, alpha={self.alpha}"


class DenseMultiMix(MultiMix):
    """Dense MultiMix as a criterion: it takes the feature map and the head instead of logits.

    Attention is GAP with ReLU and ℓ1 normalisation, detached (our choice): it measures confidence and is no
    path for gradients.

    >>> features, head = torch.randn(8, 32, 4, 4), nn.Linear(32, 3)
    >>> DenseMultiMix(n=1000)(features, head, torch.randint(3, (8,))).shape
    torch.Size([])
    """

    def forward(
        self,
        features: Float[Tensor, "m d h w"] | Float[Tensor, "m d r"],
        head: Callable[[Tensor], Tensor],
        targets: Float[Tensor, "m c"] | Float[Tensor, "m r c"] | Int[Tensor, " m"],
    ) -> Float[Tensor, ""]:
        """The loss of one mini-batch: features before pooling, the head, targets."""
        features = features.flatten(2)
        attention = attention_map(features.detach(), features.detach().mean(dim=2))
        logits = head(features.mT)
        return dense_mixed_cross_entropy(
            logits, targets, attention, n=self.n, alpha=self.alpha, generator=self.generator
        )
