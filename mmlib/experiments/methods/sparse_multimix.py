"""MultiMix of random subsets of the mini-batch."""

from torch import Tensor

from mmlib._checks import check_int
from mmlib._typing import Alpha, Float
from mmlib.experiments.methods.multimix import ExplicitWeightsMultiMix
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import accumulation_dtype
from mmlib.sampling import sample_sparse_weights


class SparseMultiMix(ExplicitWeightsMultiMix):
    """MultiMix whose mixtures are of random subsets of the mini-batch.

    Args:
        classifier: the network to train.
        examples_per_mixture: examples of a mixture; 2 mixes pairs of embeddings, m is MultiMix itself.
        num_mixtures, alpha, probability, mixup_alpha, alpha_is_total, seed: as in `MultiMix`.

    Raises:
        ValueError: a mini-batch has fewer examples.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        examples_per_mixture: int = 2,
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
        check_int(1, examples_per_mixture=examples_per_mixture)
        self.examples_per_mixture = examples_per_mixture

    def weights(self, m: int, like: Tensor) -> Float[Tensor, "n m"]:
        """Λ, all but a few of every row zero."""
        count = self.examples_per_mixture
        if count > m:
            raise ValueError(f"examples_per_mixture must be at most {m}, the examples of the mini-batch, got {count}")
        return sample_sparse_weights(
            self.num_mixtures,
            m,
            count,
            self.concentration(count),
            generator=self.generator,
            dtype=accumulation_dtype(like.dtype),
        )
