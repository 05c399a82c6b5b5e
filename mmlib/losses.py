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
from torch import Generator, Tensor, nn
from torch.autograd.function import once_differentiable

from mmlib.annotations import Alpha, Float, Labels, Targets
from mmlib.mixing import attention_map, check_mixture, mix_densely, sample_blocks, sample_weights, somewhere, widened

# Mixed logits computed together: on the CPU as many as stay in cache, or those of one of the compiled code's blocks;
# elsewhere as many as keep the device busy.
CHUNK_ON_CPU, CHUNK = 3 * 2**16, 2**24


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
    weights: Float[Tensor, "n m"] | None = None,
    *,
    n: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    generator: Generator | None = None,
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
    _check_weights(weights, n, alpha, logits)
    _check_targets(targets, logits.shape)
    targets = targets.unsqueeze(1) if targets.is_floating_point() else targets
    return _cross_entropy(logits.unsqueeze(1), targets, None, weights, n, alpha=alpha, generator=generator)


@_eager
def dense_mixed_cross_entropy(
    logits: Float[Tensor, "m r c"],
    targets: Targets | Float[Tensor, "m r c"] | Labels,
    attention: Float[Tensor, "m r"],
    weights: Float[Tensor, "n m"] | None = None,
    *,
    n: int | None = None,
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
    _check_weights(weights, n, alpha, logits)
    _check_targets(targets, logits.shape)
    return _cross_entropy(logits, targets, attention, weights, n, alpha=alpha, generator=generator)


def distributions(targets: Tensor, shape: torch.Size) -> Tensor:
    """Targets as distributions that broadcast with logits of `shape`, (m, c) or (m, r, c).

    Raises:
        ValueError: as `_check_targets`.

    >>> distributions(torch.tensor([1]), torch.Size([1, 3]))
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
        raise ValueError("weights and n are both " + ("missing" if n is None else "given") + "; give one of them")
    m = len(logits)
    if weights is None:
        check_mixture(n, m, alpha)
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
    dtype = widened(logits.dtype)
    m, _, c = logits.shape
    with torch.autocast(logits.device.type, enabled=False):
        if weights is None:
            blocks = sample_blocks(n, m, device=logits.device, dtype=dtype, **drawn)
        else:
            weights = weights.to(dtype).contiguous()
            blocks, n = [weights], len(weights)
        logits, attention = logits.to(dtype), None if attention is None else somewhere(attention).to(dtype)
        on_labels = not targets.is_floating_point() and not any(_wanted(attention, weights))
        # It takes for granted that rows sum to 1; given ones do so only nearly, unless attention divides them.
        summed = weights is None or attention is not None
        if on_labels and summed and logits.device.type == "cpu" and dtype == torch.float32:
            attention = logits.new_ones(m, 1) if attention is None else attention.contiguous()
            factors = (attention.unsqueeze(2) * logits).permute(2, 1, 0).reshape(-1, m)
            return _LabelCrossEntropy.apply(factors, targets.long().contiguous(), attention, blocks, n)
        targets = distributions(targets, logits.shape).to(dtype).expand_as(logits)
        if attention is not None:
            logits, targets = attention.unsqueeze(2) * logits, attention.unsqueeze(2) * targets
            attention = attention.T.contiguous()
        values = [x.permute(2, 1, 0).reshape(-1, m) for x in (logits, targets)] + [attention, weights]
        return _MixedCrossEntropy.apply(*values, blocks, n, c, _wanted(*values))


def _wanted(*values: Tensor | None) -> list[bool]:
    """Which of the values need a gradient; autograd would also say so of leaves where gradients are switched off."""
    return [torch.is_grad_enabled() and x is not None and x.requires_grad for x in values]


class _Differentiated(torch.autograd.Function):
    """What saves the gradients by its first arguments in its forward pass; no other argument has one."""

    @staticmethod
    @once_differentiable
    def backward(ctx, scale):
        gradients = [None if gradient is None else scale * gradient for gradient in ctx.saved_tensors]
        return *gradients, *[None] * (len(ctx.needs_input_grad) - len(gradients))


class _MixedCrossEntropy(_Differentiated):
    """Mean over k and j of H(ỹ, softmax(l̃)), its gradients computed together with it.

    l̃ = Λ l / s and ỹ = Λ y / s, where s = Λ a, or 1 without attention. With p̃ = softmax(l̃) the derivatives are
    ∂H/∂l̃ = p̃ Σỹ - ỹ, ∂H/∂ỹ = -log p̃ and ∂H/∂s = -(l̃ · ∂H/∂l̃ + ỹ · ∂H/∂ỹ) / s; each goes through Λ from there.
    """

    @staticmethod
    def forward(ctx, logits, targets, attention, weights, blocks, n, c, wanted):
        values = (logits, targets, attention)
        mixed = (logits, targets, targets.view(c, -1, targets.shape[1]).sum(dim=0), attention)
        size = CHUNK_ON_CPU if logits.device.type == "cpu" else CHUNK
        sums = [torch.zeros_like(x) if want else None for x, want in zip(values, wanted)]
        loss, of_weights = logits.new_zeros(()), []
        for block in blocks:
            for rows in block.split(max(1, size // len(logits))):
                value, gradients = _chunk(rows.T.contiguous(), mixed, c, any(wanted[1:]))
                loss += value
                for total, gradient in zip(sums, gradients):
                    if total is not None:
                        total.addmm_(gradient, rows)
                if wanted[3]:
                    of_weights.append(sum(g.T @ x for g, x in zip(gradients, values) if x is not None))
        sums.append(torch.cat(of_weights) if wanted[3] else None)
        terms = n * len(logits) // c
        ctx.save_for_backward(*(None if g is None else g.div_(terms) for g in sums))
        return loss / terms


def _chunk(columns: Tensor, mixed: tuple[Tensor | None, ...], c: int, every: bool) -> tuple[Tensor, list[Tensor]]:
    """The summed loss of the mixtures `columns`, and its derivatives by Λ l and, if `every`, by Λ y and Λ a.

    `mixed` are l, y, y summed over classes, (r, m), and a.
    """
    logits, targets, masses, attention = mixed
    x, y = ((values @ columns).view(c, -1) for values in (logits, targets))
    mass = (masses @ columns).view(-1)
    inverse = None if attention is None else (attention @ columns).reciprocal_().view(-1)
    if inverse is not None:
        for values in (x, y, mass):
            values.mul_(inverse)
    x.sub_(x.amax(dim=0))
    loss = -torch.dot(x.view(-1), y.view(-1))
    p = x.exp() if every else x.exp_()
    total = p.sum(dim=0)
    loss += torch.dot(total.log(), mass)
    share = mass / total
    if inverse is None:
        gradients = [p.mul_(share).sub_(y)]
    else:
        gradients = [p.mul_(share.mul_(inverse)).addcmul_(y, inverse, value=-1)]
    if every:
        gradients.append((total.log() - x).mul_(1 if inverse is None else inverse))
        gradients.append(-sum((value * gradient).sum(dim=0) for value, gradient in zip((x, y), gradients)))
    return loss, [gradient.view(-1, columns.shape[1]) for gradient in gradients]


class _LabelCrossEntropy(_Differentiated):
    """Of labels, in single precision on the CPU: compiled (`mmlib.compiled`), with a gradient for logits alone.

    It takes Λ's factors l a, (c r, m), the m classes, and a, (m, r).
    """

    @staticmethod
    def forward(ctx, logits, classes, attention, blocks, n):
        from mmlib import compiled  # loading it takes a second, which only those who compute here need

        r, c = attention.shape[1], len(logits) // attention.shape[1]
        whole = compiled.BLOCK
        size = -(-CHUNK_ON_CPU // len(logits) // whole) * whole
        loss, gradient = 0.0, torch.zeros_like(logits)
        for block in blocks:
            for rows in block.split(size):
                mixed, inverse = logits @ rows.T, (attention.T @ rows.T).reciprocal_()
                arrays = (x.numpy() for x in (mixed.view(c, r, -1), rows, classes, attention, inverse))
                loss += compiled.differentiate_cross_entropy(*arrays)
                if ctx.needs_input_grad[0]:  # a product, never a leaf
                    gradient.addmm_(mixed, rows)
        ctx.save_for_backward(gradient.div_(n * r))
        return logits.new_tensor(loss / (n * r))


class MultiMix(nn.Module):
    """MultiMix as a criterion: a drop-in for `nn.CrossEntropyLoss` in anybody's training loop.

    Args:
        n, alpha, generator: as in `sample_weights`; the generator lives on the logits' device.
        total: read alpha as the concentration of the whole mixture, α/m for each of m examples (ours). An example's
            own label then weighs 1 / (1 + α) in its expected gradient instead of 1 / (1 + mα).

    >>> criterion = MultiMix(n=1000)
    >>> criterion(torch.randn(8, 3), torch.randint(3, (8,))).shape
    torch.Size([])
    """

    def __init__(
        self, n: int = 1000, alpha: Alpha = (0.5, 2.0), generator: Generator | None = None, *, total: bool = False
    ) -> None:
        super().__init__()
        check_mixture(n, 1, alpha)
        self.n, self.alpha, self.generator, self.total = n, alpha, generator, total

    def forward(self, logits: Float[Tensor, "m c"], targets: Targets | Labels) -> Float[Tensor, ""]:
        """The loss of one mini-batch."""
        alpha = self.concentration(len(logits))
        return mixed_cross_entropy(logits, targets, n=self.n, alpha=alpha, generator=self.generator)

    def concentration(self, m: int) -> tuple[float, float]:
        """The interval that the concentration of each of m examples is drawn from."""
        low, high = check_mixture(self.n, m, self.alpha)
        return (low / m, high / m) if self.total else (low, high)

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"n={self.n}, alpha={self.alpha}, total={self.total}"


class DenseMultiMix(MultiMix):
    """Dense MultiMix as a criterion: it takes the feature map and the head instead of logits.

    A head that is an `nn.Linear` commutes with interpolation and sees the m examples only. Any other, a function
    of (..., d), sees all n mixtures at every position, at n / m times the work and in memory that grows with n.

    Attention is GAP with ReLU and ℓ1 normalisation, detached (our choice): it measures confidence and is no
    path for gradients.

    >>> features, head = torch.randn(8, 32, 4, 4), nn.Linear(32, 3)
    >>> DenseMultiMix(n=1000)(features, head, torch.randint(3, (8,))).shape
    torch.Size([])
    """

    def forward(
        self, features: Float[Tensor, "m d *_"], head: Callable, targets: Targets | Float[Tensor, "m r c"] | Labels
    ) -> Float[Tensor, ""]:
        """The loss of one mini-batch: features before pooling, (m, d, h, w) or (m, d, r), the head, targets."""
        features = features.flatten(2)
        attention = attention_map(features.detach(), features.detach().mean(dim=2))
        drawn = {"alpha": self.concentration(len(features)), "generator": self.generator}
        if type(head) is nn.Linear:
            return dense_mixed_cross_entropy(head(features.mT), targets, attention, n=self.n, **drawn)
        weights = sample_weights(self.n, len(features), **drawn, device=features.device, dtype=attention.dtype)
        logits = head(mix_densely(weights, attention, features.mT))
        shape = torch.Size((*attention.shape, logits.shape[-1]))
        targets = distributions(targets, shape).to(weights.dtype).expand(shape)
        return F.cross_entropy(logits.flatten(0, 1), mix_densely(weights, attention, targets).flatten(0, 1))
