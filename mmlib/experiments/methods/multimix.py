"""MultiMix: interpolation of a whole mini-batch's embeddings."""

from torch import Tensor

from mmlib._checks import check_int, check_range, check_type
from mmlib._typing import Alpha, Float, Images, Labels, Targets
from mmlib.experiments.methods.base import Method, cross_entropy
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.functional import mixed_cross_entropy
from mmlib.mixing import accumulation_dtype
from mmlib.sampling import check_alpha, sample_mixing_weights
from mmlib.transforms import draw_pairs, mix_pairs


class MultiMix(Method):
    """Half of the mini-batches get n mixtures of all m embeddings, the other half input mixup; never clean examples.

    Args:
        classifier: the network to train.
        num_mixtures: n, the mixtures of a mini-batch (published recipe: 1000).
        alpha: concentration of the Dirichlet distribution; from a pair (low, high) every mixture draws its own.
        probability: probability of interpolating embeddings rather than inputs (published recipe: 0.5).
        mixup_alpha: α of the input mixup on the other mini-batches.
        alpha_is_total: read `alpha` as the concentration of a whole mixture, α/m for each of its m examples.
        seed: seed of all draws of the method.

    Source: MultiMix (NeurIPS 2023), section 3. The interval of α is the published recipe;
    `alpha_is_total` and `mixup_alpha` are ours.

    >>> import torch
    >>> from mmlib.experiments.models import Classifier, preact_resnet
    >>> classifier = Classifier(preact_resnet(1, 4, (1, 1)), 8, classes=10, mean=(0.3,), std=(0.3,))
    >>> loss = MultiMix(classifier, num_mixtures=100)(torch.rand(8, 1, 8, 8), torch.randint(10, (8,)))
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        num_mixtures: int = 1000,
        alpha: Alpha = (0.5, 2.0),
        probability: float = 0.5,
        mixup_alpha: float = 1.0,
        alpha_is_total: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_int(1, num_mixtures=num_mixtures)
        check_alpha(mixup_alpha, "mixup_alpha", pair=False)
        check_range(high=1, probability=probability)
        check_type("alpha_is_total", alpha_is_total, bool)
        self.num_mixtures, self.alpha, self.alpha_is_total = num_mixtures, check_alpha(alpha), alpha_is_total
        self.probability, self.mixup_alpha = probability, mixup_alpha

    def compute_loss(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Loss of the mini-batch, its embeddings or its images mixed."""
        if self.flip_coin(self.probability):
            return self.interpolate(images, labels)
        mixed, targets = self.mix_batch(images, labels)  # inlined: a call of super() costs the compiler a graph break
        return cross_entropy(self.classifier(mixed), targets)

    def mix_batch(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Input mixup, for the mini-batches whose embeddings are not mixed."""
        partners, lam = draw_pairs(len(images), self.mixup_alpha, generator=self.cpu_generator, device=images.device)
        targets = self.targets(images, labels)
        targets = targets if targets.is_floating_point() else self.one_hot(targets)
        return mix_pairs(images, partners, lam), mix_pairs(targets, partners, lam)

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Loss of a mini-batch whose embeddings are mixed: its logits are mixed, which is the same and cheaper."""
        return mixed_cross_entropy(
            self.classifier(images),
            self.targets(images, labels),
            num_mixtures=self.num_mixtures,
            alpha=self.concentration(len(images)),
            generator=self.generator,
        )

    def targets(self, images: Images, labels: Labels) -> Targets | Labels:
        """Targets of the examples' predictions, before mixing."""
        return labels

    def concentration(self, m: int) -> tuple[float, float]:
        """Interval from which every mixture draws the concentration of each of its m examples."""
        low, high = self.alpha
        return (low / m, high / m) if self.alpha_is_total else (low, high)

    def weights(self, m: int, like: Tensor) -> Float[Tensor, "n m"]:
        """Λ for m examples, in the precision of `like`, single at least."""
        return sample_mixing_weights(
            self.num_mixtures,
            m,
            self.concentration(m),
            generator=self.generator,
            dtype=accumulation_dtype(like.dtype),
        )


class ExplicitWeightsMultiMix(MultiMix):
    """Base of the variants that need the whole Λ at once: they override `weights`."""

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Loss of a mini-batch whose embeddings are mixed."""
        logits, targets = self.classifier(images), self.targets(images, labels)
        return mixed_cross_entropy(logits, targets, mixing_weights=self.weights(len(images), logits))
