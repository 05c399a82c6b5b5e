"""Input mixup, which mixes pairs of images."""

from mmlib._typing import Images, Labels, Targets
from mmlib.experiments.methods.base import Method
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.sampling import check_alpha
from mmlib.transforms import draw_pairs, mix_pairs


class Mixup(Method):
    """Input mixup: every image is mixed with another one of the mini-batch, with one λ ~ Beta(α, α) for all.

    Args:
        classifier: the network to train.
        alpha: α of the Beta distribution.
        seed: seed of all draws of the method.

    Source: Zhang et al. (ICLR 2018).
    """

    def __init__(self, classifier: ImageClassifier, *, alpha: float = 1.0, seed: int = 0) -> None:
        super().__init__(classifier, seed=seed)
        check_alpha(alpha, pair=False)
        self.alpha = alpha

    def mix_batch(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Images and targets, each mixed with its partner's."""
        partners, lam = draw_pairs(len(images), self.alpha, generator=self.cpu_generator, device=images.device)
        return mix_pairs(images, partners, lam), mix_pairs(self.one_hot(labels), partners, lam)
