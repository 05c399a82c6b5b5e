"""Manifold mixup: mixup at a random layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._checks import check_int
from mmlib._typing import Float, Images, Labels
from mmlib.experiments.methods._pairs import draw_pairs, mix_pairs
from mmlib.experiments.methods.mixup import Mixup


class ManifoldMixup(Mixup):
    """Mixup of the images or of the output of one of the encoder's first stages, drawn anew for every mini-batch.

    The stem belongs to the first stage, so that there are `stages` + 1 layers to mix at.

    Args:
        alpha: of λ ~ Beta(α, α) (published recipe: 2).
        stages: after which it may mix (published recipe for PreActResNet: 2).

    Raises:
        ValueError: at the first mini-batch, if the encoder has fewer stages.

    Source: Verma et al. (ICML 2019).
    """

    def __init__(self, classifier: nn.Module, *, alpha: float = 2.0, stages: int = 2, seed: int = 0) -> None:
        super().__init__(classifier, alpha=alpha, seed=seed)
        check_int(stages=stages)
        self.stages = stages

    def forward(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        classifier = self.classifier
        split_encoder(classifier.encoder, self.stages)  # the last there may be a draw of
        stage = int(torch.randint(self.stages + 1, (), generator=self.cpu_generator))
        before, after = split_encoder(classifier.encoder, stage)
        partners, lam = draw_pairs(self, len(images), self.alpha)
        mixed = mix_pairs(before(classifier.normalise(images)), partners, lam)
        return F.cross_entropy(classifier.classify(after(mixed)), mix_pairs(self.one_hot(labels), partners, lam))


def split_encoder(encoder: nn.Sequential, stage: int) -> tuple[nn.Sequential, nn.Sequential]:
    """What comes up to a stage's output, the stem included, and what comes after; before the stem for stage 0.

    Raises:
        ValueError: the encoder has fewer stages.
    """
    if stage >= len(encoder):
        raise ValueError(f"stage {stage} is not there; this encoder takes 0 to {len(encoder) - 1}")
    modules = stage + 1 if stage else 0
    return encoder[:modules], encoder[modules:]
