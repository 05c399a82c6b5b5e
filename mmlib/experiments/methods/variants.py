"""MultiMix with one choice made otherwise: how many examples a mixture has, their α, where they meet, who attends."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._checks import check_int, check_type
from mmlib._typing import Float, Images, Labels, Targets
from mmlib.attention import attention_map, softmax_attention_map
from mmlib.experiments.methods._pairs import draw_pairs, mix_pairs
from mmlib.experiments.methods.distillation import MultiMixDistill
from mmlib.experiments.methods.manifold_mixup import split_encoder
from mmlib.experiments.methods.multimix import DenseMultiMix, ExplicitWeightsMultiMix, MultiMix
from mmlib.functional import dense_mixed_cross_entropy, mixed_cross_entropy
from mmlib.mixing import accumulation_dtype, mix
from mmlib.sampling import sample_sparse_weights


class TupleMultiMix(ExplicitWeightsMultiMix):
    """MultiMix whose mixtures are of random subsets of the mini-batch.

    Args:
        tuple_length: examples of a mixture; 2 mixes pairs of embeddings, m is MultiMix itself.
        options: of `MultiMix`.

    Raises:
        ValueError: at the first mini-batch that has fewer examples.
    """

    def __init__(self, classifier: nn.Module, *, examples_per_mixture: int = 2, **options) -> None:
        super().__init__(classifier, **options)
        check_int(1, examples_per_mixture=examples_per_mixture)
        self.examples_per_mixture = examples_per_mixture

    def weights(self, m: int, like: Tensor) -> Float[Tensor, "n m"]:
        """Λ, all but a few of every row zero."""
        if self.examples_per_mixture > m:
            raise ValueError(
                f"examples_per_mixture is {self.examples_per_mixture}; a mini-batch of {m} takes at most that"
            )
        length, drawn = (
            self.examples_per_mixture,
            {"generator": self.generator, "dtype": accumulation_dtype(like.dtype)},
        )
        return sample_sparse_weights(
            self.criterion.num_mixtures, m, length, self.criterion.concentration(length), **drawn
        )


class OneAlphaMultiMix(MultiMix):
    """MultiMix that draws one concentration for the whole mini-batch instead of one for every mixture."""

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose embeddings are mixed with weights of one α."""
        low, high = self.criterion.concentration(len(images))
        alpha = low + (high - low) * torch.rand((), generator=self.cpu_generator, dtype=torch.double).item()
        drawn = {"num_mixtures": self.criterion.num_mixtures, "alpha": alpha, "generator": self.generator}
        return mixed_cross_entropy(self.classifier(images), self.targets(images, labels), **drawn)


class HiddenMultiMix(MultiMix):
    """MultiMix of an earlier stage's output: the rest of the network, which is not affine, sees all n mixtures.

    That costs n / m times as much as a mini-batch does from there on, and batch normalisation takes its statistics
    from mixtures.

    Args:
        stage: whose output is mixed, its stem included in the first; 0 mixes the images.
        options: of `MultiMix`.

    Raises:
        ValueError: at the first mini-batch, if the encoder has fewer stages.
    """

    def __init__(self, classifier: nn.Module, *, stage: int = 1, **options) -> None:
        super().__init__(classifier, **options)
        check_int(stage=stage)
        self.stage = stage

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose hidden features are mixed."""
        before, after = split_encoder(self.classifier.encoder, self.stage)
        hidden, targets = before(self.classifier.normalise(images)), self.one_hot(labels)
        weights = self.weights(len(images), hidden)
        logits = self.classifier.classify(after(mix(weights.to(hidden.dtype), hidden)))
        return F.cross_entropy(logits, mix(weights.to(targets.dtype), targets))


# Query of the attention: features (m, d, r), weights of the head (c, d), labels (m,) -> (m, d).
QUERIES = {
    "gap": lambda features, weight, labels: features.mean(dim=2),
    "cam": lambda features, weight, labels: weight[labels],
    "uniform": lambda features, weight, labels: torch.zeros_like(features[:, :, 0]),
}
NONLINEARITIES = {"relu": attention_map, "softmax": softmax_attention_map}


class AttentionDenseMultiMix(DenseMultiMix):
    """Dense MultiMix with a choice of what a position is compared with, and of how that becomes attention.

    Args:
        query: `gap`, the mean of the features; `cam`, the head's weights of the label; `uniform`, no attention.
        nonlinearity: `relu`, normalised by its sum, or `softmax`.
        learnt: let gradients through attention; `cam`'s weights of the head stay fixed.
        options: of `DenseMultiMix`; its own query is `gap`, its nonlinearity `relu`, its attention not learnt.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        query: str = "cam",
        nonlinearity: str = "relu",
        train_attention: bool = False,
        **options,
    ) -> None:
        super().__init__(classifier, **options)
        check_type("train_attention", train_attention, bool)
        for name, value, choices in (("query", query, QUERIES), ("nonlinearity", nonlinearity, NONLINEARITIES)):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; it takes {', '.join(choices)}")
        self.query, self.nonlinearity, self.train_attention = query, nonlinearity, train_attention

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose features are mixed at every position."""
        targets, head = self.position_targets(images, labels), self.classifier.head
        features = self.classifier.features(images).flatten(2)
        seen = features if self.train_attention else features.detach()
        query = QUERIES[self.query](seen, head.weight.detach().to(seen.dtype), labels)
        attention = NONLINEARITIES[self.nonlinearity](seen, query)
        drawn = {
            "num_mixtures": self.criterion.num_mixtures,
            "alpha": self.criterion.concentration(len(images)),
            "generator": self.generator,
        }
        return dense_mixed_cross_entropy(head(features.mT), targets, attention, **drawn)


class MultiMixDistillAtMixture(MultiMixDistill):
    """MultiMix with self-distillation, read otherwise: the teacher predicts *at* the mixtures.

    ỹ' = softmax(Λ l') of the teacher's logits l' where `MultiMixDistill` has Λ softmax(l'). On mini-batches with input
    mixup the teacher predicts at the mixed images.
    """

    def mix(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Input mixup, for the mini-batches whose embeddings are not mixed."""
        partners, lam = draw_pairs(self, len(images), self.mixup_alpha)
        mixed = mix_pairs(images, partners, lam)
        return mixed, self._blend(mix_pairs(self.one_hot(labels), partners, lam), lambda teacher: teacher(mixed))

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """The loss of a mini-batch whose embeddings are mixed, the student's and the teacher's alike."""
        logits, targets = self.classifier(images), self.one_hot(labels)
        weights = self.weights(len(images), logits)
        labelled = mix(weights.to(targets.dtype), targets)
        targets = self._blend(labelled, lambda teacher: mix(weights, teacher(images).to(weights.dtype)))
        return F.cross_entropy(mix(weights, logits.to(weights.dtype)), targets)
