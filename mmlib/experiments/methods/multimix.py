"""MultiMix and Dense MultiMix: interpolation of a whole mini-batch's embeddings."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import losses
from mmlib._checks import check_range, check_type
from mmlib._typing import Float, Images, Labels, Targets
from mmlib.experiments.methods._pairs import draw_pairs, mix_pairs
from mmlib.experiments.methods.base import Method
from mmlib.functional import mixed_cross_entropy
from mmlib.mixing import accumulation_dtype
from mmlib.sampling import check_alpha, sample_mixing_weights


class MultiMix(Method):
    """Half of the mini-batches get n mixtures of all m embeddings, the other half input mixup; never clean examples.

    Args:
        num_mixtures: mixtures per mini-batch (published recipe).
        alpha: the Dirichlet's concentration; a pair is drawn from afresh for every mixture (our choice).
        alpha_is_total: read alpha as the concentration of the whole mixture, α/m for each example (ours).
        probability: of interpolating embeddings rather than inputs (published recipe).
        mixup_alpha: of the input mixup on the other mini-batches (our choice).

    Source: MultiMix (NeurIPS 2023), section 3.

    >>> import torch
    >>> from mmlib.experiments.models import Classifier, preact_resnet
    >>> classifier = Classifier(preact_resnet(1, 4, (1, 1)), 8, classes=10, mean=(0.3,), std=(0.3,))
    >>> loss = MultiMix(classifier, num_mixtures=100)(torch.rand(8, 1, 8, 8), torch.randint(10, (8,)))
    """

    criterion_type: type[losses.MultiMixLoss] = losses.MultiMixLoss

    def __init__(
        self,
        classifier: nn.Module,
        *,
        num_mixtures: int = 1000,
        alpha: float | Sequence[float] = (0.5, 2.0),
        probability: float = 0.5,
        mixup_alpha: float = 1.0,
        alpha_is_total: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        interval = check_alpha(num_mixtures, 2, alpha)
        check_alpha(1, 2, mixup_alpha)
        check_range(most=1, probability=probability)
        check_type("alpha_is_total", alpha_is_total, bool)
        self.probability, self.mixup_alpha = probability, mixup_alpha
        self.criterion = self.criterion_type(
            num_mixtures, interval, alpha_is_total=alpha_is_total, generator=self.generator
        )

    def forward(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        if self.chance(self.probability):
            return self.interpolate(images, labels)
        mixed, targets = self.mix(images, labels)  # `super().forward` would be a frame more for the compiler
        return F.cross_entropy(self.classifier(mixed), targets)

    def mix(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Input mixup, for the mini-batches whose embeddings are not mixed."""
        partners, lam = draw_pairs(self, len(images), self.mixup_alpha)
        targets = self.targets(images, labels)
        targets = targets if targets.is_floating_point() else self.one_hot(targets)
        return mix_pairs(images, partners, lam), mix_pairs(targets, partners, lam)

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose embeddings are mixed; its logits are, which is the same and cheaper."""
        return self.criterion(self.classifier(images), self.targets(images, labels))

    def weights(self, m: int, like: Tensor) -> Float[Tensor, "n m"]:
        """Λ for m examples where it is needed as a whole, in the precision of `like`, single at least."""
        drawn = {"generator": self.generator, "dtype": accumulation_dtype(like.dtype)}
        return sample_mixing_weights(self.criterion.num_mixtures, m, self.criterion.concentration(m), **drawn)

    def targets(self, images: Images, labels: Labels) -> Targets | Labels:
        """What the examples' predictions are held against, before mixing."""
        return labels


class ExplicitWeightsMultiMix(MultiMix):
    """What variants build on that draw Λ otherwise, all of it at once: they say how in `weights`."""

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose embeddings are mixed."""
        logits, targets = self.classifier(images), self.targets(images, labels)
        return mixed_cross_entropy(logits, targets, self.weights(len(images), logits))


class DenseMultiMix(MultiMix):
    """MultiMix at every position of the feature map, each example weighted by its attention there."""

    criterion_type = losses.DenseMultiMixLoss

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose features are mixed at every position."""
        targets = self.position_targets(images, labels)
        return self.criterion(self.classifier.features(images), self.classifier.head, targets)

    def position_targets(self, images: Images, labels: Labels) -> Targets | Float[Tensor, "m r c"] | Labels:
        """Every position inherits its image's label."""
        return self.targets(images, labels)
