"""MultiMix as criteria for anybody's training loop."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mmlib._typing import Alpha, Float, Labels, Targets
from mmlib.attention import attention_map
from mmlib.functional import as_distributions, dense_mixed_cross_entropy, mixed_cross_entropy
from mmlib.mixing import mix_dense
from mmlib.sampling import check_alpha, sample_mixing_weights


class MultiMixLoss(nn.Module):
    """MultiMixLoss as a criterion: a drop-in for `nn.CrossEntropyLoss` in anybody's training loop.

    Args:
        num_mixtures, alpha, generator: as in `sample_mixing_weights`; the generator lives on the logits' device.
        alpha_is_total: read alpha as the concentration of the whole mixture, α/m for each of m examples (ours). An example's
            own label then weighs 1 / (1 + α) in its expected gradient instead of 1 / (1 + mα).

    >>> criterion = MultiMixLoss(num_mixtures=1000)
    >>> criterion(torch.randn(8, 3), torch.randint(3, (8,))).shape
    torch.Size([])
    """

    def __init__(
        self,
        num_mixtures: int = 1000,
        alpha: Alpha = (0.5, 2.0),
        *,
        alpha_is_total: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        check_alpha(num_mixtures, 1, alpha)
        self.num_mixtures, self.alpha, self.generator = num_mixtures, alpha, generator
        self.alpha_is_total = alpha_is_total

    def forward(self, logits: Float[Tensor, "m c"], targets: Targets | Labels) -> Float[Tensor, ""]:
        """The loss of one mini-batch."""
        alpha = self.concentration(len(logits))
        return mixed_cross_entropy(
            logits, targets, num_mixtures=self.num_mixtures, alpha=alpha, generator=self.generator
        )

    def concentration(self, m: int) -> tuple[float, float]:
        """The interval that the concentration of each of m examples is drawn from."""
        low, high = check_alpha(self.num_mixtures, m, self.alpha)
        return (low / m, high / m) if self.alpha_is_total else (low, high)

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"n={self.num_mixtures}, alpha={self.alpha}, alpha_is_total={self.alpha_is_total}"


class DenseMultiMixLoss(MultiMixLoss):
    """Dense MultiMixLoss as a criterion: it takes the feature map and the head instead of logits.

    A head that is an `nn.Linear` commutes with interpolation and sees the m examples only. Any other, a function
    of (..., d), sees all n mixtures at every position, at n / m times the work and in memory that grows with n.

    Attention is GAP with ReLU and ℓ1 normalisation, detached (our choice): it measures confidence and is no
    path for gradients.

    >>> features, head = torch.randn(8, 32, 4, 4), nn.Linear(32, 3)
    >>> DenseMultiMixLoss(num_mixtures=1000)(features, head, torch.randint(3, (8,))).shape
    torch.Size([])
    """

    def forward(
        self, features: Float[Tensor, "m d *_"], head: Callable, targets: Targets | Float[Tensor, "m r c"] | Labels
    ) -> Float[Tensor, ""]:
        """The loss of one mini-batch: features before pooling, (m, d, h, w) or (m, d, r), the head, targets."""
        features = features.flatten(2)
        attention = attention_map(features.detach(), features.detach().mean(dim=2))
        drawn = {"alpha": self.concentration(len(features)), "generator": self.generator}
        if type(head) is nn.Linear:
            return dense_mixed_cross_entropy(
                head(features.mT), targets, attention, num_mixtures=self.num_mixtures, **drawn
            )
        weights = sample_mixing_weights(
            self.num_mixtures, len(features), **drawn, device=features.device, dtype=attention.dtype
        )
        logits = head(mix_dense(weights, attention, features.mT))
        shape = torch.Size((*attention.shape, logits.shape[-1]))
        targets = as_distributions(targets, shape).to(weights.dtype).expand(shape)
        return F.cross_entropy(logits.flatten(0, 1), mix_dense(weights, attention, targets).flatten(0, 1))
