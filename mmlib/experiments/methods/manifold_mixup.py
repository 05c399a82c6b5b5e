"""Manifold mixup: mixup at a random layer."""

import torch
from torch import Tensor, nn

from mmlib._checks import check_int
from mmlib._typing import Float, Images, Labels
from mmlib.experiments.methods.base import cross_entropy
from mmlib.experiments.methods.mixup import Mixup
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.transforms import draw_pairs, mix_pairs


class ManifoldMixup(Mixup):
    """Mixup of the images or of the output of one of the encoder's first stages, drawn anew for every mini-batch.

    The stem belongs to the first stage, so there are `stages` + 1 layers at which examples may be mixed. The loss is
    cross-entropy, as of all methods here; the released code takes the binary cross-entropy of the softmax, per class.

    Args:
        classifier: the network to train.
        alpha: α of λ ~ Beta(α, α) (published recipe: 2).
        stages: number of stages after which it may mix (published recipe for PreActResNet: 2).
        seed: seed of all draws of the method.

    Raises:
        ValueError: the encoder has fewer stages (at the first mini-batch).

    Source: Verma et al. (ICML 2019).
    """

    def __init__(self, classifier: ImageClassifier, *, alpha: float = 2.0, stages: int = 2, seed: int = 0) -> None:
        super().__init__(classifier, alpha=alpha, seed=seed)
        check_int(stages=stages)
        self.stages = stages

    def compute_loss(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Cross-entropy of the mini-batch, mixed at a random layer."""
        classifier = self.classifier
        split_encoder(classifier.encoder, self.stages)  # raises if the last stage is not there
        stage = int(torch.randint(self.stages + 1, (), generator=self.cpu_generator, device="cpu"))
        before, after = split_encoder(classifier.encoder, stage)
        partners, lam = draw_pairs(len(images), self.alpha, generator=self.cpu_generator, device=images.device)
        mixed = mix_pairs(before(classifier.normalise(images)), partners, lam)
        return cross_entropy(classifier.classify(after(mixed)), mix_pairs(self.one_hot(labels), partners, lam))


def split_encoder(encoder: nn.Sequential, stage: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Split an encoder after a stage, the stem being part of the first stage; stage 0 splits before the stem.

    Raises:
        ValueError: the encoder has fewer stages.
    """
    if stage >= len(encoder):
        raise ValueError(f"stage must be from 0 to {len(encoder) - 1} for this encoder, got {stage}")
    modules = stage + 1 if stage else 0
    return encoder[:modules], encoder[modules:]
