"""MultiMix of random subsets of the mini-batch."""

import torch
from torch import Generator, Tensor

from mmlib._checks import check_int
from mmlib._typing import Alpha, Device, Float
from mmlib.experiments.methods.multimix import ExplicitWeightsMultiMix
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import accumulation_dtype
from mmlib.sampling import resolve_devices, sample_mixing_weights


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


def sample_sparse_weights(
    num_mixtures: int,
    num_examples: int,
    examples_per_mixture: int,
    alpha: Alpha = (0.5, 2.0),
    *,
    generator: Generator | None = None,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n m"]:
    """Draw points of the simplex, each a mixture of a few random examples; all other weights are zero.

    Args:
        num_mixtures: n, the number of mixtures to draw.
        num_examples: m, the number of examples to choose from.
        examples_per_mixture: the number of examples in each mixture, at most m.
        alpha, generator, device, dtype: as in `sample_mixing_weights`.

    Returns:
        Λ, shape (n, m), one mixture a row. Each row sums to 1.

    Raises:
        TypeError, ValueError: as `sample_mixing_weights`; `examples_per_mixture` is above m.

    >>> weights = sample_sparse_weights(1000, 128, 2, generator=torch.Generator().manual_seed(0))
    >>> weights.count_nonzero(dim=1).unique()
    tensor([2])
    """
    check_int(1, num_examples=num_examples, examples_per_mixture=examples_per_mixture)
    if examples_per_mixture > num_examples:
        raise ValueError(
            f"examples_per_mixture must be at most num_examples={num_examples}, got {examples_per_mixture}"
        )
    weights = sample_mixing_weights(
        num_mixtures, examples_per_mixture, alpha, generator=generator, device=device, dtype=dtype
    )
    source, target = resolve_devices(generator, device)
    shape = len(weights), int(num_examples)
    keys = torch.rand(shape, generator=generator, device=source, dtype=torch.float32)
    chosen = keys.topk(weights.shape[1], dim=1).indices.to(target)
    return weights.new_zeros(shape).scatter_(1, chosen, weights)
