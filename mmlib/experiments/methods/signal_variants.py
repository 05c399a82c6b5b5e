"""MultiMix with more of each example in a mixture's gradient: what tells examples apart amplified, α moved, mixtures
around one example. All three are ours."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmlib._checks import check_int
from mmlib._typing import Float, Images, Labels
from mmlib.experiments.methods.multimix import ExplicitWeightsMultiMix, MultiMix
from mmlib.functional import mixed_cross_entropy


class AmplifiedMultiMix(MultiMix):
    """MultiMix whose gradient by the logits keeps its common part and has the examples' own parts amplified.

    With G the gradient of MultiMix's loss by the logits, a row an example, and Ḡ the mean of its rows, the network
    gets Ḡ + s (G - Ḡ). The loss is MultiMix's. s = 1 / E[1 / (1 + mα)], which is 1 + mα for one α, brings the own
    parts to the size that they have without mixing: E G = 1/m (common + own / (1 + mα)) to first order in the logits.
    """

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose embeddings are mixed, its gradient amplified."""
        logits = self.classifier(images)
        own = logits - logits.mean(dim=0)
        # Adds nothing, and to the gradient s - 1 times its deviation from the mean.
        logits = logits + (self.amplification(len(images)) - 1) * (own - own.detach())
        return self.criterion(logits, self.targets(images, labels))

    def amplification(self, m: int) -> float:
        """s for m examples: the inverse of the mean of 1 / (1 + mα) over the interval that α is drawn from."""
        low, high = (m * alpha for alpha in self.criterion.concentration(m))
        return 1 + low if low == high else (high - low) / math.log((1 + high) / (1 + low))


class AnnealedMultiMix(MultiMix):
    """MultiMix whose α moves geometrically while training, from `alpha` to `factor` times it.

    Args:
        factor: below 1 mixtures come closer and closer to single examples, above 1 they leave them.
        steps: of the optimiser until α has arrived; it stays there. Steps with input mixup count too.
        options: of `MultiMix`.
    """

    def __init__(self, classifier: nn.Module, *, factor: float = 0.01, steps: int = 1000, **options) -> None:
        super().__init__(classifier, **options)
        if not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise ValueError(f"factor is {factor!r}; it takes a positive number")
        check_int(1, steps=steps)
        self.factor, self.steps, self.step = factor, steps, 0

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose embeddings are mixed with the α of this step."""
        now = self.factor ** min(1, self.step / self.steps)
        low, high = self.criterion.concentration(len(images))
        drawn = {
            "num_mixtures": self.criterion.num_mixtures,
            "alpha": (now * low, now * high),
            "generator": self.generator,
        }
        return mixed_cross_entropy(self.classifier(images), self.targets(images, labels), **drawn)

    def on_step_end(self) -> None:
        self.step += 1

    def get_extra_state(self) -> dict[str, Tensor]:
        return super().get_extra_state() | {"step": torch.tensor(self.step)}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        super().set_extra_state(state)
        self.step = int(state["step"])


class AnchoredMultiMix(ExplicitWeightsMultiMix):
    """MultiMix whose mixtures lie around one example each: λ = w e_i + (1 - w) μ, μ ~ Dirichlet(α) over all m.

    All examples take turns. An example's own label then weighs w² + (1 - w)² / (1 + mα) above what all get, whatever
    m is at least w².

    Args:
        anchor_weight: w, or the interval that it is drawn from for every mixture.
        options: of `MultiMix`.
    """

    def __init__(self, classifier: nn.Module, *, anchor_weight: float | Sequence[float] = 0.5, **options) -> None:
        super().__init__(classifier, **options)
        low, high = (
            anchor_weight
            if isinstance(anchor_weight, tuple | list) and len(anchor_weight) == 2
            else (anchor_weight, anchor_weight)
        )
        if not all(isinstance(w, int | float) for w in (low, high)) or not 0 <= low <= high <= 1:
            raise ValueError(
                f"anchor_weight is {anchor_weight!r}; it takes a number from 0 to 1 or a pair (low, high) of such"
            )
        self.anchor_weight = (low, high)

    def weights(self, m: int, like: Tensor) -> Float[Tensor, "n m"]:
        """Λ: row k has w of its weight on example k % m, the rest drawn over all m."""
        others, n = super().weights(m, like), self.criterion.num_mixtures
        w = others.new_empty(n, 1).uniform_(*self.anchor_weight, generator=self.generator)
        k = torch.arange(n, device=others.device)
        examples = torch.zeros_like(others)
        examples[k, k % m] = 1
        return torch.lerp(others, examples, w)
