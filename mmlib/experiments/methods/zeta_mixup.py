"""ζ-mixup: every image is mixed with all others of the mini-batch, most of all with a few."""

from mmlib._checks import check_range
from mmlib._typing import Images, Labels, Targets
from mmlib.experiments.methods.base import Method
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import accumulation_dtype, mix
from mmlib.transforms import zeta_weights


class ZetaMixup(Method):
    """As many mixtures as examples, each of all images of the mini-batch, with weights that fall as rank^-γ.

    Args:
        classifier: the network to train.
        gamma: γ (published recipe: 2.8); above 1.72865 the first rank outweighs all others together, however many.
        seed: seed of all draws of the method.

    Source: Abhishek et al. (Journal of Big Data 2024; arXiv 2022).
    """

    def __init__(self, classifier: ImageClassifier, *, gamma: float = 2.8, seed: int = 0) -> None:
        super().__init__(classifier, seed=seed)
        check_range(gamma=gamma)
        self.gamma = gamma

    def mix_batch(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Mixed images, and targets by the same weights."""
        dtype = accumulation_dtype(images.dtype)  # weights of half precision do not sum to 1
        weights = zeta_weights(len(images), self.gamma, generator=self.generator, dtype=dtype)
        targets = self.one_hot(labels)
        return mix(weights, images.to(dtype)).to(images.dtype), mix(weights.to(targets.dtype), targets)
