"""Self-distillation: targets blended with the predictions of a moving average of the classifier itself."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Labels, Targets
from mmlib.experiments.methods.multimix import DenseMultiMix, MultiMix


class MultiMixDistill(MultiMix):
    """MultiMix with the teacher's predictions on the unmixed images interpolated by the same weights.

    The loss (1 - γ) H(ỹ, p̃) + γ H(ỹ', p̃) with ỹ' = Λ p' is linear in its target, so it is one pass with the
    target (1 - γ) y + γ p'. On mini-batches with input mixup p' of the two images is mixed like their labels (our
    choice). The teacher is never trained by gradient and predicts in evaluation mode.

    Args:
        gamma: γ, the share of the teacher (our choice).
        decay: the largest of the moving average; at step t it is min(decay, (1 + t) / (10 + t)) (our choice).
        options: of `MultiMix`.

    Source: Teach me how to Interpolate a Myriad of Embeddings (2022), abstract.
    """

    def __init__(self, classifier: nn.Module, *, gamma: float = 0.5, decay: float = 0.999, **options) -> None:
        super().__init__(classifier, **options)
        check_range(most=1, gamma=gamma, decay=decay)
        self.gamma, self.decay = gamma, decay
        self.teacher = AveragedModel(classifier, avg_fn=self._average, use_buffers=True).requires_grad_(False).eval()
        # AveragedModel's first update copies: spent on the untrained student, so that step 1 already averages.
        self.teacher.update_parameters(classifier)

    def _average(self, teacher: Tensor, student: Tensor, step: Tensor) -> Tensor:
        decay = torch.clamp((1 + step) / (10 + step), max=self.decay).to(student.device)
        # BatchNorm also counts its batches in an integer, which has no average.
        return torch.lerp(student, teacher, decay.to(student.dtype)) if student.is_floating_point() else student

    def on_step_end(self) -> None:
        self.teacher.update_parameters(self.classifier)

    def train(self, mode: bool = True) -> "MultiMixDistill":
        super().train(mode)
        self.teacher.eval()
        return self

    def targets(self, images: Images, labels: Labels) -> Targets:
        """(1 - γ) y + γ p'."""
        return self._blend(self.one_hot(labels), lambda teacher: teacher(images))

    def _blend(self, targets: Tensor, predict) -> Tensor:
        with torch.no_grad():
            predictions = predict(self.teacher.module).softmax(dim=-1).to(targets.dtype)
        return torch.lerp(targets, predictions, self.gamma)


class DenseMultiMixDistill(MultiMixDistill, DenseMultiMix):
    """Dense MultiMix with self-distillation: the teacher predicts at every position."""

    def position_targets(self, images: Images, labels: Labels) -> Float[Tensor, "m r c"]:
        """(1 - γ) y + γ p' at every position."""
        targets = self.one_hot(labels).unsqueeze(1)
        return self._blend(targets, lambda teacher: teacher.head(teacher.features(images).flatten(2).mT))
