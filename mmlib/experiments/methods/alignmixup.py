"""AlignMixup: feature maps are aligned by optimal transport before they are mixed."""

import math

import torch
from torch import Tensor

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Labels
from mmlib.experiments.methods.base import cross_entropy, is_on_cpu
from mmlib.experiments.methods.mixup import Mixup
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import accumulation_dtype
from mmlib.transforms import draw_pairs, mix_pairs


class AlignMixup(Mixup):
    """Half of the mini-batches get input mixup, half mix feature maps, one of each pair brought to the other's layout.

    Let R = r P be the transport plan times the number of positions, and let A and A', (d, r), be the features of an
    example and of its partner. The mixture is λ A + (1 - λ) A' Rᵀ or, equally likely, λ A R + (1 - λ) A'. No gradient
    flows through R.

    Args:
        classifier: the network to train.
        alpha: α of λ ~ Beta(α, α), which is drawn once a mini-batch (published recipe: 2).
        probability: probability of mixing aligned features rather than inputs (published recipe: 0.5).
        seed: seed of all draws of the method.

    Source: Venkataramanan et al. (CVPR 2022), as in their released code for CIFAR.
    """

    def __init__(
        self, classifier: ImageClassifier, *, alpha: float = 2.0, probability: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__(classifier, alpha=alpha, seed=seed)
        check_range(high=1, probability=probability)
        self.probability = probability

    def compute_loss(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Cross-entropy of the mini-batch, its aligned features or its images mixed."""
        if not self.flip_coin(self.probability):
            return super().compute_loss(images, labels)
        partners, lam = draw_pairs(len(images), self.alpha, generator=self.cpu_generator, device=images.device)
        features = self.classifier.features(images)
        mixed = mix_aligned(features, features[partners], lam, transport_features=self.flip_coin(0.5))
        return cross_entropy(self.classifier.classify(mixed), mix_pairs(self.one_hot(labels), partners, lam))


def mix_aligned(
    features: Float[Tensor, "m d h w"], partners: Float[Tensor, "m d h w"], lam: float, *, transport_features: bool
) -> Float[Tensor, "m d h w"]:
    """λ A R + (1 - λ) A' if `transport_features`, the features at their partner's positions, else λ A + (1 - λ) A' Rᵀ.

    Half precision is mixed in single precision, also under autocast.
    """
    dtype = accumulation_dtype(features.dtype)
    with torch.autocast(features.device.type, enabled=False):
        a, b = features.flatten(2).to(dtype), partners.flatten(2).to(dtype)
        plan = (a.shape[2] * sinkhorn(squared_distances(a.detach(), b.detach()))).to(dtype)
        a, b = (a @ plan, b) if transport_features else (a, b @ plan.mT)
        return torch.lerp(b, a, lam).view_as(features).to(features.dtype)


def squared_distances(a: Float[Tensor, "m d r"], b: Float[Tensor, "m d s"]) -> Float[Tensor, "m r s"]:
    """‖a_i - b_j‖² between all positions of two feature maps, in double precision."""
    # Not by ‖a‖² + ‖b‖² - 2 ab: the terms that cancel are large compared with ε.
    return torch.cdist(a.mT.double(), b.mT.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


def sinkhorn(
    cost: Float[Tensor, "m r s"], *, epsilon: float = 0.1, iterations: int = 100, tolerance: float = 0.1
) -> Float[Tensor, "m r s"]:
    """Plans of m entropic optimal transport problems with uniform marginals, by Sinkhorn's iterations.

    An iteration scales the rows of exp(-C / ε) to the sum 1/r, then its columns to the sum 1/s. With potentials,
    u = ε (log 1/r - log Σ_j exp((v_j - C_ij) / ε)), v alike from the new u, and P_ij = exp((u_i + v_j - C_ij) / ε).
    Iterations stop for all problems together, when ‖u - u_before‖₁ averaged over the problems is below `tolerance`.
    Only on the CPU does the loop end there; elsewhere, where asking would wait for the device, the remaining
    iterations are computed and discarded.

    Args:
        cost: C, of any scale. It is divided by ε and exponentiated: all is computed in logarithms and in double
            precision, for single precision leaves exponents of some thousands with errors of 1e-3.
        epsilon: ε, the weight of the entropy, in units of the cost.
        iterations: largest number of iterations; convergence takes about the largest cost over ε.
        tolerance: in units of the cost.

    Returns:
        Plans P of the type of `cost`. Columns sum to 1/s; rows sum to 1/r only once converged.

    Source: Cuturi (NeurIPS 2013); the defaults are those of AlignMixup's released code.

    >>> sinkhorn(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])).mul(1000).round()
    tensor([[[500.,   0.],
             [  0., 500.]]])
    """
    _, r, s = cost.shape
    kernel = cost.double() / -epsilon
    columns, row_sums, ratio = kernel + math.log(s), [], math.log(r / s)
    for _ in range(iterations):
        rows = columns.log_softmax(dim=2)
        row_sums.append(columns[:, :, 0] - rows[:, :, 0])  # in logarithms
        columns = rows.log_softmax(dim=1)
        if is_on_cpu(cost) and epsilon * (row_sums[-1] + ratio).abs().sum(dim=1).mean() < tolerance:
            break
    row_sums = torch.stack(row_sums)  # (iterations, m, r)
    change = epsilon * (row_sums + ratio).abs().sum(dim=2).mean(dim=1)
    not_converged = torch.ones_like(change)
    not_converged[1:] = (change[:-1] >= tolerance).cumprod(dim=0)
    potentials = -(not_converged.view(-1, 1, 1) * row_sums).sum(dim=0)
    return ((kernel + potentials.unsqueeze(2)).softmax(dim=1) / s).to(cost.dtype)
