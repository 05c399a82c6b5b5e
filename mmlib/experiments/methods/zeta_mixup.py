"""ζ-mixup: every image is mixed with all others of the mini-batch, most of all with a few."""

import torch
from torch import Tensor, nn

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Labels, Targets
from mmlib.experiments.methods.base import Method
from mmlib.mixing import mix


class ZetaMixup(Method):
    """As many mixtures as examples, each of all of the mini-batch's images, with weights that fall as rank^-γ.

    Args:
        gamma: γ (published recipe: 2.8); above 1.72865 the first rank outweighs all others together, however many.

    Source: Abhishek et al. (Journal of Big Data 2024; arXiv 2022).
    """

    def __init__(self, classifier: nn.Module, *, gamma: float = 2.8, seed: int = 0) -> None:
        super().__init__(classifier, seed=seed)
        check_range(gamma=gamma)
        self.gamma = gamma

    def mix(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Mixed images, and targets by the same weights."""
        weights = zeta_weights(len(images), self.gamma, generator=self.generator, dtype=images.dtype)
        targets = self.one_hot(labels)
        with torch.autocast(images.device.type, enabled=False):  # weights of three digits do not sum to 1
            return mix(weights, images), mix(weights.to(targets.dtype), targets)


def zeta_weights(
    m: int, gamma: float, *, generator: torch.Generator, dtype: torch.dtype | None = None
) -> Float[Tensor, "m m"]:
    """Weights proportional to rank^-γ: every row ranks all m examples, its own first and the others in random order.

    Args:
        m: examples, and mixtures of them.
        gamma: γ; 0 weighs all examples alike.
        generator: the only source of randomness; the weights are on its device.
        dtype: by default torch's default.

    Returns:
        Weights, one mixture a row, every row summing to 1, the largest of each on the diagonal.

    Source: Abhishek et al. (2024); that an example comes first in its own mixture is so in their released code.

    >>> zeta_weights(3, 2.0, generator=torch.Generator().manual_seed(0)).diagonal()
    tensor([0.7347, 0.7347, 0.7347])
    """
    keys = torch.rand(m, m, generator=generator, device=generator.device).fill_diagonal_(-1)
    by_rank = torch.arange(1, m + 1, device=generator.device, dtype=dtype or torch.get_default_dtype()) ** -gamma
    by_rank = (by_rank / by_rank.sum()).expand(m, m)
    return torch.empty_like(by_rank).scatter_(1, keys.argsort(dim=1), by_rank)
