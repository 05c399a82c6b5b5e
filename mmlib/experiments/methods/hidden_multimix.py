"""MultiMix at an earlier layer."""

from torch import Tensor

from mmlib._checks import check_int
from mmlib._typing import Alpha, Float, Images, Labels
from mmlib.experiments.methods.base import cross_entropy
from mmlib.experiments.methods.manifold_mixup import split_encoder
from mmlib.experiments.methods.multimix import MultiMix
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import mix


class HiddenMultiMix(MultiMix):
    """MultiMix of an earlier stage's output: the rest of the network, which is not affine, sees all n mixtures.

    From there on it costs n / m times as much as a mini-batch, and batch normalisation takes its statistics from
    mixtures.

    Args:
        classifier: the network to train.
        stage: the stage whose output is mixed, the stem being part of the first; 0 mixes the images.
        num_mixtures, alpha, probability, mixup_alpha, alpha_is_total, seed: as in `MultiMix`.

    Raises:
        ValueError: the encoder has fewer stages (at the first mini-batch).
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        stage: int = 1,
        num_mixtures: int = 1000,
        alpha: Alpha = (0.5, 2.0),
        probability: float = 0.5,
        mixup_alpha: float = 1.0,
        alpha_is_total: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            classifier,
            num_mixtures=num_mixtures,
            alpha=alpha,
            probability=probability,
            mixup_alpha=mixup_alpha,
            alpha_is_total=alpha_is_total,
            seed=seed,
        )
        check_int(stage=stage)
        self.stage = stage

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Loss of a mini-batch whose hidden features are mixed."""
        before, after = split_encoder(self.classifier.encoder, self.stage)
        hidden, targets = before(self.classifier.normalise(images)), self.one_hot(labels)
        weights = self.weights(len(images), hidden)
        mixed = mix(weights, hidden.to(weights.dtype)).to(hidden.dtype)
        return cross_entropy(self.classifier.classify(after(mixed)), mix(weights.to(targets.dtype), targets))
