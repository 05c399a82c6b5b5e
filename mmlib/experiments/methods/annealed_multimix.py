"""MultiMix with a concentration that changes while training."""

from torch import Tensor

from mmlib._checks import check_int, check_range
from mmlib._typing import Alpha
from mmlib.experiments.methods.multimix import MultiMix
from mmlib.experiments.models.classifier import ImageClassifier


class AnnealedMultiMix(MultiMix):
    """MultiMix whose α moves geometrically while training, from `alpha` to `factor` times it.

    Args:
        classifier: the network to train.
        factor: a positive number; below 1 mixtures approach single examples, above 1 they leave them.
        steps: optimiser steps until α has arrived; it stays there. Steps with input mixup count too.
        num_mixtures, alpha, probability, mixup_alpha, alpha_is_total, seed: as in `MultiMix`.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        factor: float = 0.01,
        steps: int = 1000,
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
        check_range(factor=factor)
        if factor == 0:
            raise ValueError(f"factor must be a positive number, got {factor!r}")
        check_int(1, steps=steps)
        self.factor, self.steps, self.step = factor, steps, 0

    def concentration(self, m: int) -> tuple[float, float]:
        """Interval from which every mixture of this step draws the concentration of each of its m examples."""
        scale = self.factor ** min(1, self.step / self.steps)
        low, high = super().concentration(m)
        return scale * low, scale * high

    def on_step_end(self) -> None:
        self.step += 1

    def get_extra_state(self) -> dict[str, Tensor | str | int]:
        return super().get_extra_state() | {"step": self.step}

    def set_extra_state(self, state: dict[str, Tensor | str | int]) -> None:
        super().set_extra_state(state)
        self.step = state["step"]
