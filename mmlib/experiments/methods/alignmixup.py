"""AlignMixup: feature maps are aligned by optimal transport before they are mixed."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Labels
from mmlib.experiments.methods._pairs import draw_pairs, mix_pairs
from mmlib.experiments.methods.mixup import Mixup
from mmlib.mixing import accumulation_dtype


class AlignMixup(Mixup):
    """Half of the mini-batches get input mixup, half mix feature maps, one of each pair brought to the other's layout.

    With R = r P, the transport plan times the number of positions, A the features of an example and A' its partner's,
    (d, r), the mixture is λ A + (1 - λ) A' Rᵀ or, as probable, λ A R + (1 - λ) A'. No gradient goes through R.

    Args:
        alpha: of λ ~ Beta(α, α), one a mini-batch (published recipe: 2).
        probability: of mixing aligned features rather than inputs (published recipe: 0.5).

    Source: Venkataramanan et al. (CVPR 2022), as their released code for CIFAR has it.
    """

    def __init__(self, classifier: nn.Module, *, alpha: float = 2.0, probability: float = 0.5, seed: int = 0) -> None:
        super().__init__(classifier, alpha=alpha, seed=seed)
        check_range(most=1, probability=probability)
        self.probability = probability

    def forward(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        if not self.chance(self.probability):
            return super().forward(images, labels)
        partners, lam = draw_pairs(self, len(images), self.alpha)
        features = self.classifier.features(images)
        mixed = mix_aligned(features, features[partners], lam, transport_features=self.chance(0.5))
        return F.cross_entropy(self.classifier.classify(mixed), mix_pairs(self.one_hot(labels), partners, lam))


def mix_aligned(
    features: Float[Tensor, "m d h w"], partners: Float[Tensor, "m d h w"], lam: float, *, transport_features: bool
) -> Float[Tensor, "m d h w"]:
    """λ A R + (1 - λ) A' if `transport_features`, the features at their partner's positions, else λ A + (1 - λ) A' Rᵀ."""
    a, b = features.flatten(2), partners.flatten(2)
    alignment = (a.shape[2] * sinkhorn(squared_distances(a.detach(), b.detach()))).to(a.dtype)
    a, b = (a @ alignment, b) if transport_features else (a, b @ alignment.mT)
    return torch.lerp(b, a, lam).view_as(features)


def squared_distances(a: Float[Tensor, "m d r"], b: Float[Tensor, "m d s"]) -> Float[Tensor, "m r s"]:
    """‖a_i - b_j‖² between all positions of two feature maps, in single precision or wider."""
    a, b = (x.mT.to(accumulation_dtype(x.dtype)) for x in (a, b))
    # Not by ‖a‖² + ‖b‖² - 2 ab: what cancels there is large beside ε.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def sinkhorn(
    cost: Float[Tensor, "m r s"], *, epsilon: float = 0.1, iterations: int = 100, tolerance: float = 0.1
) -> Float[Tensor, "m r s"]:
    """Plans of m entropic optimal transport problems with uniform marginals: Sinkhorn's iterations on the potentials.

    u = ε (log 1/r - log Σ_j exp((v_j - C_ij) / ε)), v alike from the new u, and P_ij = exp((u_i + v_j - C_ij) / ε).
    They stop, all problems together, when ‖u - u_before‖₁ averaged over the problems is below `tolerance`. What comes
    after is computed and discarded: whether to go on is never asked of the device.

    Args:
        cost: C, of any scale; computed with in logarithms, so that nothing underflows.
        epsilon: weight of the entropy, in units of the cost.
        iterations: at most; about the largest cost over ε are needed to converge.
        tolerance: in units of the cost. Columns sum to 1/s exactly, rows to 1/r only once converged.

    Source: Cuturi (NeurIPS 2013); the defaults are those of AlignMixup's released code.

    >>> sinkhorn(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])).mul(1000).round()
    tensor([[[500.,   0.],
             [  0., 500.]]])
    """
    m, r, s = cost.shape
    u, v = cost.new_zeros(m, r, 1), cost.new_zeros(m, 1, s)
    moving = torch.ones((), dtype=torch.bool, device=cost.device)
    for _ in range(iterations):
        new_u = -epsilon * (((v - cost) / epsilon).logsumexp(dim=2, keepdim=True) + math.log(r))
        new_v = -epsilon * (((new_u - cost) / epsilon).logsumexp(dim=1, keepdim=True) + math.log(s))
        change = (new_u - u).abs().sum(dim=1).mean()
        u, v = torch.where(moving, new_u, u), torch.where(moving, new_v, v)
        moving = moving & (change >= tolerance)
    return ((u + v - cost) / epsilon).exp()
