"""The MultiMix loss as functions: cross-entropy of mixtures, plain and dense, and binary cross-entropy of mixtures.

The rows of Λ sum to 1 and the classifier is affine, so interpolation and classifier commute,
W(Λz) + b = Λ(Wz + b): logits are mixed, (m, c), never embeddings, (n, d). Λ is shared by all positions, so all of
them are one product. Loss and gradients are summed over chunks of mixtures in the forward pass: memory does not
grow with n, and a chunk's work stays in cache.

`torch.compile` traces these functions without a graph break (`fullgraph=True`), on torch's operations also where numba
is installed: a compiled step on the CPU draws other mixtures than an eager one. With a generator of their own, which
a graph cannot hold, they are graph breaks and compute what they compute eagerly. What the CPU checks of values is
checked in eager calls only.

`torch.func.grad` is supported; `torch.func.vmap` and forward-mode derivatives are not. Second derivatives are refused,
save with `reduction="none"`, which is plain autograd.
"""

from torch import Generator, Tensor

from mmlib._checks import check_logits, check_tensor
from mmlib._mixed_loss import LossAndWeights, Mixtures, Terms, binary_loss, mixed_loss
from mmlib._typing import Alpha, Float


def mixed_cross_entropy(
    logits: Float[Tensor, "m c"],
    targets: Tensor,
    num_mixtures: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    *,
    alpha_is_total: bool = False,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    mixing_weights: Float[Tensor, "n m"] | None = None,
    return_mixing_weights: bool = False,
    generator: Generator | None = None,
) -> LossAndWeights:
    """Compute the cross-entropy of n mixtures of m examples: H(ỹ_k, softmax(l̃_k)), ỹ = Λ y, l̃ = Λ l.

    `weight`, `label_smoothing` and `reduction` mean what they mean in `F.cross_entropy` with class probabilities as
    targets, for a mixture's target is one: the mean divides by the number of mixtures, not by their class weights.

    Args:
        logits: the affine classifier's output on the examples themselves.
        targets: class indices of any integer type, (m,), or a distribution over classes per example, (m, c), which
            may be one-hot rows of integers or booleans.
        num_mixtures: n, by default 1000, or the rows of `mixing_weights`.
        alpha: concentration of the Dirichlet distribution; a pair draws each mixture's own from U(low, high).
        alpha_is_total: read alpha as the concentration of a whole mixture, alpha / m for each of the m examples
            (ignored ones included).
        weight: of every class, (c,).
        ignore_index: examples with this class index are in no mixture. If there are no others, the loss is 0.
        label_smoothing: from 0 to 1.
        reduction: "mean", "sum", or "none" for a loss per mixture, (n,), in memory that grows with n.
        mixing_weights: Λ, its rows summing to 1, instead of random ones.
        return_mixing_weights: also return Λ, as drawn or given, for another loss to share.
        generator: source of randomness, on the device of the logits; by default torch's global one.

    Returns:
        The loss, or the loss and Λ, (n, m). It is infinite if any example has logit -inf for a class that any other
        is labelled with.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes do not fit, there is no example, or there is a single class; on the CPU also if weights are
            negative, a row of Λ does not sum to 1, or a class index is out of range. On other devices, where the host
            would have to wait to see it, an index out of range makes the loss NaN.

    Source: MultiMix (NeurIPS 2023), section 3.

    >>> import torch
    >>> logits = torch.randn(8, 3, requires_grad=True)
    >>> mixed_cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2, 0, -100]), num_mixtures=1000).backward()
    >>> bool((logits.grad[7] == 0).all())
    True
    """
    check_logits(logits)
    mixtures = Mixtures(num_mixtures, alpha, alpha_is_total, generator, mixing_weights)
    terms = Terms(weight, ignore_index, label_smoothing, reduction)
    return mixed_loss(logits, targets, mixtures, terms, return_mixing_weights)


def dense_mixed_cross_entropy(
    logits: Float[Tensor, "m r c"],
    targets: Tensor,
    attention: Float[Tensor, "m r"],
    num_mixtures: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    *,
    mask: Tensor | None = None,
    alpha_is_total: bool = False,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    mixing_weights: Float[Tensor, "n m"] | None = None,
    return_mixing_weights: bool = False,
    generator: Generator | None = None,
) -> LossAndWeights:
    """Compute the cross-entropy of n mixtures at each of r positions, every example weighted by its attention there.

    At position j a mixture's weights are M̂^j = Λ diag(a^j), each row divided by its sum. Λ is shared by all
    positions. Where a row's sum is zero the mixture keeps its own weights λ (our choice). A mixture's loss is the
    mean over its positions; `reduction` is over mixtures.

    Args:
        logits: the affine classifier's output at every position. For a segmentation map (m, c, h, w) give
            `logits.flatten(2).mT`.
        targets: class indices (m,) or distributions (m, c) per example, inherited by its positions; or per position
            class indices (m, r) or distributions (m, r, c). Integers of shape (m, r) are refused if r = c, for they
            could also be one-hot rows: give one-hot rows as booleans, classes per position as (m, r, c).
        attention: not negative; gradients flow into it where it asks for them and is not zero.
        mask: bool, (m, r), True where a position is real. Others are in no mixture, no term and no mean.
        num_mixtures, alpha, alpha_is_total, weight, label_smoothing: as in `mixed_cross_entropy`.
        mixing_weights, return_mixing_weights, generator: as in `mixed_cross_entropy`.
        ignore_index: examples, or positions, with this class index are in no mixture.
        reduction: "mean", "sum", or "none" for a loss per mixture, (n,), its mean over positions.

    Returns:
        The loss, or the loss and Λ, (n, m).

    Raises:
        TypeError, ValueError: as `mixed_cross_entropy`.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.

    >>> import torch
    >>> logits = torch.randn(8, 16, 3, requires_grad=True)
    >>> attention = torch.full((8, 16), 1 / 16)
    >>> dense_mixed_cross_entropy(logits, torch.randint(3, (8,)), attention, num_mixtures=1000).backward()
    """
    hint = "; for a map (m, c, h, w) give logits.flatten(2).mT"
    check_tensor("logits", logits, ("m", "r", "c"), "floating-point", hint)
    check_tensor("attention", attention, tuple(logits.shape[:2]), "floating-point")
    mixtures = Mixtures(num_mixtures, alpha, alpha_is_total, generator, mixing_weights)
    terms = Terms(weight, ignore_index, label_smoothing, reduction)
    return mixed_loss(logits, targets, mixtures, terms, return_mixing_weights, attention=attention, mask=mask)


def mixed_binary_cross_entropy(
    logits: Float[Tensor, "m c"],
    targets: Tensor,
    num_mixtures: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    *,
    alpha_is_total: bool = False,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
    mixing_weights: Float[Tensor, "n m"] | None = None,
    return_mixing_weights: bool = False,
    generator: Generator | None = None,
) -> LossAndWeights:
    """Compute the binary cross-entropy of n mixtures of m examples, every class a yes or no of its own.

    Logits and targets are mixed as in `mixed_cross_entropy`; each class of a mixture is a term, and a mixture's loss
    is the mean over classes. Mixtures are held as a whole, in memory that grows with n.

    Args:
        logits: the affine classifier's output, (m, c).
        targets: from 0 to 1, or booleans or integers, in the shape of the logits; for one class also (m,).
        weight: of every class, (c,).
        pos_weight: weight of positive targets, per class, (c,), as in `F.binary_cross_entropy_with_logits`.
        reduction: "mean", "sum", or "none" for a loss per mixture, (n,).
        num_mixtures, alpha, alpha_is_total, mixing_weights, return_mixing_weights, generator: as in
            `mixed_cross_entropy`.

    Returns:
        The loss, or the loss and Λ, (n, m).

    Source: ours; MultiMix (NeurIPS 2023) has one label per example.

    >>> import torch
    >>> logits, tags = torch.randn(8, 5, requires_grad=True), torch.rand(8, 5) > 0.7
    >>> mixed_binary_cross_entropy(logits, tags, num_mixtures=1000).backward()
    """
    mixtures = Mixtures(num_mixtures, alpha, alpha_is_total, generator, mixing_weights)
    terms = Terms(weight, reduction=reduction, pos_weight=pos_weight)
    return binary_loss(logits, targets, mixtures, terms, return_mixing_weights)
