"""MultiMix with one concentration for the whole mini-batch."""

import torch
from torch import Tensor

from mmlib._typing import Float, Images, Labels
from mmlib.experiments.methods.multimix import MultiMix
from mmlib.functional import mixed_cross_entropy


class OneAlphaMultiMix(MultiMix):
    """MultiMix that draws one concentration for the whole mini-batch instead of one for every mixture.

    Options are those of `MultiMix`.
    """

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Loss of a mini-batch whose embeddings are mixed with weights of one α."""
        low, high = self.concentration(len(images))
        uniform = torch.rand((), generator=self.cpu_generator, device="cpu", dtype=torch.double).item()
        return mixed_cross_entropy(
            self.classifier(images),
            self.targets(images, labels),
            num_mixtures=self.num_mixtures,
            alpha=low + (high - low) * uniform,
            generator=self.generator,
        )
