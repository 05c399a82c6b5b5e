"""Dense MultiMix: interpolation at every position of the feature map."""

import torch
from torch import Tensor

from mmlib._checks import check_choice, check_type
from mmlib._typing import Alpha, Float, Images, Labels, Targets
from mmlib.attention import attention_map, softmax_attention_map
from mmlib.experiments.methods.multimix import MultiMix
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.functional import dense_mixed_cross_entropy

QUERIES = ("gap", "cam", "uniform")
NONLINEARITIES = {"relu": attention_map, "softmax": softmax_attention_map}


class DenseMultiMix(MultiMix):
    """MultiMix at every position of the feature map, each example weighted by its attention there.

    Attention compares a position with the mean of all (GAP, ReLU). It is not trained: no gradient flows through it.
    Options are those of `MultiMix`.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation.
    """

    def interpolate(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Loss of a mini-batch whose features are mixed at every position."""
        targets = self.position_targets(images, labels)
        features = self.classifier.features(images).flatten(2)
        return dense_mixed_cross_entropy(
            self.classifier.head(features.mT),
            targets,
            self.attention(features, labels),
            num_mixtures=self.num_mixtures,
            alpha=self.concentration(len(images)),
            generator=self.generator,
        )

    def position_targets(self, images: Images, labels: Labels) -> Targets | Float[Tensor, "m r c"] | Labels:
        """Targets of the predictions at every position, which inherit the image's."""
        return self.targets(images, labels)

    def attention(self, features: Float[Tensor, "m d r"], labels: Labels) -> Float[Tensor, "m r"]:
        """Attention at every position."""
        features = features.detach()
        return attention_map(features, features.mean(dim=2))


class AttentionDenseMultiMix(DenseMultiMix):
    """Dense MultiMix with a choice of the query that positions are compared with, and of the nonlinearity.

    Args:
        classifier: the network to train.
        query: `gap`, the mean of the features; `cam`, the head's weights of the label's class; `uniform`, no attention.
        nonlinearity: `relu`, normalised by its sum, or `softmax`.
        train_attention: let gradients flow through the attention; the head's weights in `cam` stay fixed.
        num_mixtures, alpha, probability, mixup_alpha, alpha_is_total, seed: as in `MultiMix`.

    Source: MultiMix (NeurIPS 2023), section 3, dense interpolation. `DenseMultiMix` has `gap` and `relu`, not trained.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        query: str = "cam",
        nonlinearity: str = "relu",
        train_attention: bool = False,
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
        check_choice("query", query, QUERIES)
        check_choice("nonlinearity", nonlinearity, NONLINEARITIES)
        check_type("train_attention", train_attention, bool)
        self.query, self.nonlinearity, self.train_attention = query, nonlinearity, train_attention

    def attention(self, features: Float[Tensor, "m d r"], labels: Labels) -> Float[Tensor, "m r"]:
        """Attention at every position, by the query and the nonlinearity of this method."""
        features = features if self.train_attention else features.detach()
        if self.query == "gap":
            query = features.mean(dim=2)
        elif self.query == "cam":
            query = self.classifier.head.weight.detach()[labels].to(features.dtype)
        else:
            query = torch.zeros_like(features[:, :, 0])
        return NONLINEARITIES[self.nonlinearity](features, query)
