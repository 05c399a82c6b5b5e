"""Manifold mixup: mixup at a random layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.annotations import Float, Int
from mmlib.methods.mixup import draw_pairs, mix_pairs
from mmlib.methods.objective import Objective
from mmlib.mixing import check_mixture


class ManifoldMixup(Objective):
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
        super().__init__(classifier, seed=seed)
        check_mixture(1, 2, alpha)
        if not isinstance(stages, int) or stages < 0:
            raise ValueError(f"stages is {stages!r}; it takes a whole number of at least 0")
        self.alpha, self.stages = alpha, stages

    def forward(self, images: Float[Tensor, "m channels size size"], labels: Int[Tensor, " m"]) -> Float[Tensor, ""]:
        classifier, encoder = self.classifier, self.classifier.encoder
        if self.stages >= len(encoder):
            raise ValueError(f"stages is {self.stages}; this encoder takes 0 to {len(encoder) - 1}")
        stage = int(torch.randint(self.stages + 1, (), generator=self.host_generator))
        partners, λ = draw_pairs(self, len(images), self.alpha)
        before = stage + 1 if stage else 0  # modules: the stem comes with the first stage
        mixed = mix_pairs(encoder[:before](classifier.normalise(images)), partners, λ)
        logits = classifier.classify(encoder[before:](mixed))
        return F.cross_entropy(logits, mix_pairs(self.one_hot(labels), partners, λ))
