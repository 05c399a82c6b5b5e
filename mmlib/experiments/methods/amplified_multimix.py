"""MultiMix with the examples' own parts of the gradient amplified."""

import math

from torch import Tensor

from mmlib._typing import Float, Images, Labels
from mmlib.experiments.methods.multimix import MultiMix
from mmlib.functional import mixed_cross_entropy


class AmplifiedMultiMix(MultiMix):
    """MultiMix whose gradient by the logits keeps its common part and has the examples' own parts amplified.

    Let G be the gradient of MultiMix's loss by the logits, with a row for each example, and Ḡ the mean of its rows.
    The network gets Ḡ + s (G - Ḡ); the loss is MultiMix's. The factor s = 1 / E[1 / (1 + mα)], which is 1 + mα for
    one α, brings the own parts to the size that they have without mixing: E G = 1/m (common + own / (1 + mα)) to
    first order in the logits. Options are those of `MultiMix`.
    """

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Loss of a mini-batch whose embeddings are mixed, its gradient amplified."""
        logits = self.classifier(images)
        own = logits - logits.mean(dim=0)
        # The term has the value zero; its gradient is s - 1 times the gradient's deviation from the mean.
        logits = logits + (self.amplification(len(images)) - 1) * (own - own.detach())
        return mixed_cross_entropy(
            logits,
            self.targets(images, labels),
            num_mixtures=self.num_mixtures,
            alpha=self.concentration(len(images)),
            generator=self.generator,
        )

    def amplification(self, m: int) -> float:
        """s for m examples: the inverse of the mean of 1 / (1 + mα) over the interval that α is drawn from."""
        low, high = (m * alpha for alpha in self.concentration(m))
        return 1 + low if low == high else (high - low) / math.log((1 + high) / (1 + low))
