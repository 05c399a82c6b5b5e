"""Self-distillation: targets blended with the predictions of a moving average of the classifier itself."""

import copy

import torch
from torch import Tensor, nn

from mmlib._checks import check_range
from mmlib._typing import Alpha, Float, Images, Labels, Targets
from mmlib.experiments.methods.base import cross_entropy
from mmlib.experiments.methods.dense_multimix import DenseMultiMix
from mmlib.experiments.methods.multimix import MultiMix
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import mix
from mmlib.transforms import draw_pairs, mix_pairs


class Teacher(nn.Module):
    """Moving average of a classifier's parameters and buffers, always in evaluation mode and without gradients.

    Args:
        classifier: the student, from which the teacher starts.
        decay: largest decay of the moving average; at step t it is min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, classifier: ImageClassifier, decay: float) -> None:
        super().__init__()
        check_range(high=1, decay=decay)
        self.module = copy.deepcopy(classifier).requires_grad_(False).eval()
        self.decay, self.step = decay, 0

    @torch.no_grad()
    def update(self, classifier: ImageClassifier) -> None:
        """Move towards the student: a few fused operations, however many tensors it has."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        pairs = list(zip(_tensors(self.module), _tensors(classifier), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        # BatchNorm counts its batches in an integer, which has no average.
        copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        if averaged:
            torch._foreach_lerp_(*map(list, zip(*averaged)), 1 - decay)
        if copied:
            torch._foreach_copy_(*map(list, zip(*copied)))

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "m c"]:
        """Logits."""
        return self.module(images)

    @torch.no_grad()
    def position_logits(self, images: Images) -> Float[Tensor, "m r c"]:
        """Logits at every position of the feature map."""
        return self.module.head(self.module.features(images).flatten(2).mT)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    def get_extra_state(self) -> dict[str, int]:
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def blend(targets: Float[Tensor, "*axes c"], logits: Float[Tensor, "*more c"], gamma: float) -> Tensor:
    """(1 - γ) y + γ softmax(l)."""
    return torch.lerp(targets, logits.to(targets.dtype).softmax(dim=-1), gamma)


class MultiMixDistill(MultiMix):
    """MultiMix with the teacher's predictions on the unmixed images interpolated by the same weights.

    The loss (1 - γ) H(ỹ, p̃) + γ H(ỹ', p̃) with ỹ' = Λ p' is linear in its target, so it is one pass with the
    target (1 - γ) y + γ p'. On mini-batches with input mixup, p' of the two images is mixed like their labels. The
    teacher is never trained by gradient and predicts in evaluation mode.

    Args:
        classifier: the network to train.
        gamma: γ, the share of the teacher.
        decay: largest decay of the moving average; at step t it is min(decay, (1 + t) / (10 + t)).
        num_mixtures, alpha, probability, mixup_alpha, alpha_is_total, seed: as in `MultiMix`.

    Source: Teach me how to Interpolate a Myriad of Embeddings (2022), abstract. γ, the decay and the treatment of
    input mixup are ours.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        gamma: float = 0.5,
        decay: float = 0.999,
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
        check_range(high=1, gamma=gamma)
        self.gamma, self.teacher = gamma, Teacher(classifier, decay)

    def targets(self, images: Images, labels: Labels) -> Targets:
        """(1 - γ) y + γ p'."""
        return blend(self.one_hot(labels), self.teacher(images), self.gamma)

    def on_step_end(self) -> None:
        self.teacher.update(self.classifier)


class DenseMultiMixDistill(DenseMultiMix, MultiMixDistill):
    """Dense MultiMix with self-distillation: the teacher predicts at every position.

    Options, and the mini-batches with input mixup, are those of `MultiMixDistill`.
    """

    def position_targets(self, images: Images, labels: Labels) -> Float[Tensor, "m r c"]:
        """(1 - γ) y + γ p' at every position."""
        return blend(self.one_hot(labels).unsqueeze(1), self.teacher.position_logits(images), self.gamma)


class MultiMixDistillAtMixture(MultiMixDistill):
    """MultiMix with self-distillation, read otherwise: the teacher predicts *at* the mixtures.

    ỹ' = softmax(Λ l') of the teacher's logits l' where `MultiMixDistill` has Λ softmax(l'). On mini-batches with input
    mixup the teacher predicts at the mixed images. Options are those of `MultiMixDistill`.
    """

    def mix_batch(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Input mixup, for the mini-batches whose embeddings are not mixed."""
        partners, lam = draw_pairs(len(images), self.mixup_alpha, generator=self.cpu_generator, device=images.device)
        mixed, targets = mix_pairs(images, partners, lam), mix_pairs(self.one_hot(labels), partners, lam)
        return mixed, blend(targets, self.teacher(mixed), self.gamma)

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Loss of a mini-batch whose embeddings are mixed, the student's and the teacher's alike."""
        logits, targets = self.classifier(images), self.one_hot(labels)
        weights = self.weights(len(images), logits)
        at_mixtures = mix(weights, self.teacher(images).to(weights.dtype))
        targets = blend(mix(weights.to(targets.dtype), targets), at_mixtures, self.gamma)
        return cross_entropy(mix(weights, logits.to(weights.dtype)), targets)
