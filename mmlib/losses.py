"""MultiMix as criteria for anybody's training loop."""

import inspect
import warnings
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from mmlib._checks import check_choice, check_logits, check_tensor, check_type
from mmlib._mixed_loss import LossAndWeights, Mixtures, Terms, binary_loss, is_integer, mixed_loss
from mmlib._typing import Alpha, Float
from mmlib.attention import attention_map
from mmlib.mixing import accumulation_dtype


class _MixtureLoss(nn.Module):
    """Arguments that all criteria share."""

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, mixtures: Mixtures, terms: Terms) -> None:
        super().__init__()
        mixtures.check(1)
        terms.check()
        self.num_mixtures, self.alpha, self.alpha_is_total, self.generator, _ = mixtures
        weight, self.ignore_index, self.label_smoothing, self.reduction, pos_weight = terms
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def _mixtures(self, m: int, mixing_weights: Tensor | None) -> Mixtures | None:
        """Return what to mix m examples with; None in evaluation mode, where given weights are only checked."""
        n = self.num_mixtures if mixing_weights is None else None
        mixtures = Mixtures(n, self.alpha, self.alpha_is_total, self.generator, mixing_weights)
        if self.training:
            return mixtures
        mixtures.check(m)
        return None

    def _terms(self) -> Terms:
        """Return how classes count and losses are reduced."""
        return Terms(self.weight, self.ignore_index, self.label_smoothing, self.reduction, self.pos_weight)

    def extra_repr(self) -> str:
        """Describe the criterion for `print`."""
        # A subclass may have parameters that are no attributes.
        values = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        settings = {name: x for name, x in values.items() if x is not None and not isinstance(x, Tensor | Generator)}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())


class MultiMixLoss(_MixtureLoss):
    """Cross-entropy of n mixtures of a mini-batch: a criterion that takes the place of `nn.CrossEntropyLoss`.

    The published recipe mixes embeddings on about half of the mini-batches only: `MultiMixRecipe` does that. On every
    mini-batch the default alpha teaches slowly, and `alpha_is_total=True` does not.

    In evaluation mode it is the plain cross-entropy of the unmixed examples, as dropout is off there. Class weights
    follow the convention of `nn.CrossEntropyLoss` for class probabilities in both modes: the mean divides by the
    number of mixtures (or examples), not by their weights.

    Args:
        num_mixtures: n.
        alpha: concentration of the Dirichlet distribution; a pair draws each mixture's own from U(low, high).
        alpha_is_total: read alpha as the concentration of the whole mixture, alpha / m for each of m examples (ours).
            In the expected gradient an example's own label then weighs 1 / (1 + α) above what all get, instead of
            1 / (1 + mα), which matters most on short schedules.
        weight: of every class, (c,).
        ignore_index: examples with this class index are in no mixture.
        label_smoothing: from 0 to 1.
        reduction: "mean", "sum", or "none" for a loss per mixture, (n,).
        generator: source of randomness, on the device of the logits; by default torch's global one. It is no part of
            `state_dict`: to resume, save its `get_state()` beside that.

    Source: MultiMix (NeurIPS 2023), section 3.

    >>> import torch
    >>> criterion = MultiMixLoss(num_mixtures=1000, label_smoothing=0.1)
    >>> logits, labels = torch.randn(8, 3), torch.randint(3, (8,))
    >>> loss, mixing_weights = criterion(logits, labels, return_mixing_weights=True)
    >>> torch.equal(criterion(logits, labels, mixing_weights=mixing_weights), loss)
    True
    >>> validation_loss = criterion.eval()(logits, labels)
    """

    def __init__(
        self,
        num_mixtures: int = 1000,
        alpha: Alpha = (0.5, 2.0),
        *,
        alpha_is_total: bool = False,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> None:
        mixtures = Mixtures(num_mixtures, alpha, alpha_is_total, generator)
        super().__init__(mixtures, Terms(weight, ignore_index, label_smoothing, reduction))

    def forward(
        self,
        logits: Float[Tensor, "m c"],
        targets: Tensor,
        *,
        mixing_weights: Float[Tensor, "n m"] | None = None,
        return_mixing_weights: bool = False,
    ) -> LossAndWeights:
        """Compute the loss of one mini-batch.

        Args:
            logits: the affine classifier's output.
            targets: class indices (m,) or distributions (m, c).
            mixing_weights: Λ, instead of a random one; in evaluation mode only its shape and its rows are checked.
            return_mixing_weights: also return Λ; in evaluation mode it is the identity.
        """
        check_logits(logits)
        mixtures = self._mixtures(logits.shape[0], mixing_weights)
        return mixed_loss(logits, targets, mixtures, self._terms(), return_mixing_weights)


class MultiMixBCELoss(_MixtureLoss):
    """Binary cross-entropy of n mixtures of a mini-batch, for examples with any number of labels.

    It takes the place of `nn.BCEWithLogitsLoss`, and is that of the unmixed examples in evaluation mode. A mixture's
    loss, or an example's, is the mean over classes: "none" gives one number for each, and "sum" adds those.

    Args:
        weight: of every class, (c,).
        pos_weight: weight of positive targets, per class, (c,).
        num_mixtures, alpha, alpha_is_total, reduction, generator: as in `MultiMixLoss`.

    Source: ours; MultiMix (NeurIPS 2023) has one label per example.

    >>> import torch
    >>> criterion = MultiMixBCELoss(num_mixtures=1000)
    >>> loss = criterion(torch.randn(8, 5), torch.rand(8, 5) > 0.7)
    """

    def __init__(
        self,
        num_mixtures: int = 1000,
        alpha: Alpha = (0.5, 2.0),
        *,
        alpha_is_total: bool = False,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> None:
        mixtures = Mixtures(num_mixtures, alpha, alpha_is_total, generator)
        super().__init__(mixtures, Terms(weight, reduction=reduction, pos_weight=pos_weight))

    def forward(
        self,
        logits: Float[Tensor, "m c"],
        targets: Tensor,
        *,
        mixing_weights: Float[Tensor, "n m"] | None = None,
        return_mixing_weights: bool = False,
    ) -> LossAndWeights:
        """Compute the loss of one mini-batch; arguments as in `MultiMixLoss`, targets of the logits' shape."""
        check_logits(logits)
        mixtures = self._mixtures(logits.shape[0], mixing_weights)
        return binary_loss(logits, targets, mixtures, self._terms(), return_mixing_weights)


class DenseMultiMixLoss(_MixtureLoss):
    """Dense MultiMix as a criterion: it takes the feature map and the head instead of logits.

    A head that is affine commutes with interpolation and sees the m examples only. Any other, a function of (..., d),
    sees all n mixtures at every position, at n / m times the work and in memory that grows with n.

    In evaluation mode the loss is the plain cross-entropy of the head's output on the mean of the features over
    (unmasked) positions, which for an affine head is the mean of its logits. If targets are per position it is their
    plain cross-entropy there.

    Args:
        layout: "channels_first" for features (m, d, h, w) or (m, d, r), "channels_last" for (m, h, w, d) or tokens
            (m, r, d).
        attention: how much each position counts: "gap" compares the features with their mean, "cam" with the head's
            weights of the example's target, each by `attention_map`. Or a function with the signature of
            `attention_map` (such as `softmax_attention_map`), which gets the mean as its query.
        detach_attention: let no gradient through the attention (our choice): it measures confidence.
        affine: whether the head is an affine map. With None, `nn.Linear`, parametrized or compiled, `nn.Identity`,
            dropout, whose mask is then drawn for each example and position, and `nn.Sequential` of such are taken for
            affine; any other head is not, with a warning.
        num_mixtures, alpha, alpha_is_total, weight, ignore_index, label_smoothing, reduction, generator: as in
            `MultiMixLoss`. A mixture's loss is the mean over its positions.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.

    >>> import torch
    >>> features, head = torch.randn(8, 32, 4, 4), nn.Linear(32, 3)
    >>> loss = DenseMultiMixLoss(num_mixtures=1000)(features, head, torch.randint(3, (8,)))
    >>> tokens, mask = torch.randn(8, 9, 32), torch.arange(9) < torch.randint(1, 10, (8, 1))
    >>> criterion = DenseMultiMixLoss(num_mixtures=1000, layout="channels_last")
    >>> loss = criterion(tokens, head, torch.randint(3, (8,)), mask=mask)
    """

    def __init__(
        self,
        num_mixtures: int = 1000,
        alpha: Alpha = (0.5, 2.0),
        *,
        alpha_is_total: bool = False,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        generator: Generator | None = None,
        layout: str = "channels_first",
        attention: str | Callable[..., Tensor] = "gap",
        detach_attention: bool = True,
        affine: bool | None = None,
    ) -> None:
        mixtures = Mixtures(num_mixtures, alpha, alpha_is_total, generator)
        super().__init__(mixtures, Terms(weight, ignore_index, label_smoothing, reduction))
        check_choice("layout", layout, ("channels_first", "channels_last"))
        if not callable(attention):
            check_choice("attention", attention, ("gap", "cam"))
        check_type("affine", affine, bool | None)
        check_type("detach_attention", detach_attention, bool)
        self.layout, self.attention, self.detach_attention, self.affine = layout, attention, detach_attention, affine
        self._warned = False

    def forward(
        self,
        features: Tensor,
        head: Callable[[Tensor], Tensor],
        targets: Tensor,
        *,
        mask: Tensor | None = None,
        query: Tensor | None = None,
        mixing_weights: Float[Tensor, "n m"] | None = None,
        return_mixing_weights: bool = False,
    ) -> LossAndWeights:
        """Compute the loss of one mini-batch.

        Args:
            features: before pooling, in the criterion's layout.
            head: the classifier, a function of (..., d).
            targets: class indices or distributions, per example or per position, as in `dense_mixed_cross_entropy`;
                class indices also in the map's shape, (m, h, w).
            mask: bool, (m, r) or (m, h, w), True where a position is real.
            query: (m, d), what positions are compared with, for instance the class token.
            mixing_weights, return_mixing_weights: as in `MultiMixLoss`.
        """
        check_tensor("targets", targets)
        values, mask = self._positions(features, mask, head)
        map_shape = features.shape[2:] if self.layout == "channels_first" else features.shape[1:-1]
        targets = targets.flatten(1) if is_integer(targets) and targets.shape[1:] == map_shape else targets
        mixtures = self._mixtures(len(values), mixing_weights)
        attention, head_of_mixtures = None, None
        if self.training:
            attention = self._attention(values, head, targets, mask, query)
            if self._is_affine(head):
                values = head(values)
            else:
                head_of_mixtures = head
        elif targets.ndim == 3 or (is_integer(targets) and targets.shape == values.shape[:2]):
            values = head(values)
        else:
            values = head(_mean_over_positions(values, mask).to(values.dtype)).unsqueeze(1)
            mask = None if mask is None else mask.any(dim=1, keepdim=True)
        arguments = (values, targets, mixtures, self._terms(), return_mixing_weights)
        return mixed_loss(*arguments, attention=attention, mask=mask, head=head_of_mixtures)

    def _positions(self, features: Tensor, mask: Tensor | None, head: Callable) -> tuple[Tensor, Tensor | None]:
        """Features as (m, r, d) and the mask as (m, r); masked features are 0, so that nothing of them is left."""
        if not callable(head):
            raise TypeError(f"head must be a function of (..., d), such as nn.Linear, got {type(head).__name__}")
        check_tensor("features", features, kind="floating-point")
        first, shape = self.layout == "channels_first", tuple(features.shape)
        if features.ndim < 3 or 0 in shape:
            wanted = "(m, d, r) or (m, d, h, w)" if first else "(m, r, d) or (m, h, w, d)"
            hint = "; of embeddings (m, d) give features.unsqueeze(2)" if first and features.ndim == 2 else ""
            raise ValueError(f"features must have shape {wanted}, no size 0, got {shape}{hint}")
        features = features.flatten(2).mT if first else features.flatten(1, -2)
        for layer in _linear_layers(head)[:1]:
            if features.shape[2] != layer.in_features and not isinstance(layer, nn.LazyLinear):
                wanted = f"{layer.in_features} channels for this head"
                raise ValueError(f"{self.layout} features must have {wanted}, got shape {shape}")
            dtype = next(layer.parameters(), features).dtype  # a parametrization would compute `layer.weight` anew
            if is_affine(head) and dtype != features.dtype and not torch.is_autocast_enabled(features.device.type):
                raise TypeError(f"features must have the head's dtype, {dtype}, got {features.dtype}")
        if mask is None:
            return features, None
        check_tensor("mask", mask)
        mask = mask.flatten(1)
        check_tensor("mask", mask, tuple(features.shape[:2]), "boolean")
        return features.masked_fill(~mask.unsqueeze(2), 0), mask

    def _attention(
        self, features: Tensor, head: Callable, targets: Tensor, mask: Tensor | None, query: Tensor | None
    ) -> Float[Tensor, "m r"]:
        features = features.to(accumulation_dtype(features.dtype))
        if query is None and self.attention == "cam":
            query = _class_queries(head, targets).to(features.dtype)
        elif query is None:
            query = _mean_over_positions(features, mask)
        if self.detach_attention:
            features, query = features.detach(), query.detach()
        function = self.attention if callable(self.attention) else attention_map
        attention = function(features.mT, query, mask=mask)
        check_tensor("attention", attention, tuple(features.shape[:2]), "floating-point")
        return attention

    def _is_affine(self, head: Callable) -> bool:
        if self.affine is not None:
            return self.affine
        affine = is_affine(head)
        if not affine and not self._warned:
            self._warned = True
            kind = f"{type(head).__module__}.{type(head).__qualname__}"
            warnings.warn(
                f"head is of type {kind}, which is not known to be affine, so it sees every mixture at every "
                "position; pass affine=True if it is affine, affine=False if it is not",
                stacklevel=5,  # the line that calls the criterion
            )
        return affine


def is_affine(head: object) -> bool:
    """Tell whether a head is known to be an affine map of the last axis.

    >>> is_affine(nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3))), is_affine(nn.Sequential(nn.ReLU()))
    (True, False)
    """
    head = getattr(head, "_orig_mod", head)  # compiled
    if type(head) is nn.Sequential:
        return all(map(is_affine, head))
    # Parametrizations subclass the layer and keep its forward.
    return isinstance(head, nn.Identity | _DropoutNd) or getattr(type(head), "forward", None) is nn.Linear.forward


def _linear_layers(head: object) -> list[nn.Linear]:
    """The linear layers of a head, if it is one or a sequence of some."""
    head = getattr(head, "_orig_mod", head)
    if type(head) is nn.Sequential:
        return [layer for module in head for layer in _linear_layers(module)]
    return [head] if isinstance(head, nn.Linear) else []


def _class_queries(head: object, targets: Tensor) -> Float[Tensor, "m d"]:
    """The class activation map's query: the head's weights of each example's target, W y."""
    layers = _linear_layers(head)
    if len(layers) != 1 or not is_affine(head):
        raise ValueError(f"attention='cam' needs a head with one linear layer, got {type(head).__name__}")
    weight = layers[0].weight
    if targets.ndim == 1:
        return weight[targets.long().clamp(0, len(weight) - 1)]  # those ignored are in no mixture
    if targets.ndim != 2 or targets.shape[1] != len(weight):
        raise ValueError(f"attention='cam' needs targets per example, got shape {tuple(targets.shape)}")
    return targets.to(weight.dtype) @ weight


def _mean_over_positions(features: Tensor, mask: Tensor | None) -> Float[Tensor, "m d"]:
    """The mean of features (m, r, d), 0 where masked, over real positions; 0 for an example without any."""
    features = features.to(accumulation_dtype(features.dtype))
    if mask is None:
        return features.mean(dim=1)
    return features.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
