"""Puzzle Mix: the salient blocks of two images, and where they go. It needs SciPy."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Int, Labels, Targets
from mmlib.experiments.methods._saliency import Blocks, Saliency, pool_saliency, saliency_map
from mmlib.experiments.methods.mixup import Mixup
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import accumulation_dtype
from mmlib.transforms import draw_pairs

BLOCKS = (2, 4, 8, 16)  # blocks along a side of the mask: one of those that divide it, drawn for every mini-batch
REGION = 4  # pixels along a side of the regions that are transported or averaged at borders, where it divides a block
SHARES = (1.0, 0.5, 0.0)  # share of a block that the image keeps, by label
BLOCKS_TOGETHER = 2048  # blocks of one minimum cut, of several grids; in larger graphs each takes longer


class PuzzleMix(Mixup):
    """Two images share the blocks of a grid so that little saliency is lost, and move theirs to where they are kept.

    Let z, the example's share of a block, be 0, 1/2 or 1, and let s and s' be the saliencies of the example and its
    partner. The mask minimises, over blocks i and borders between blocks i and j,

        Σ z_i s'_i + (1 - z_i) s_i  +  Σ β (z_i - z_j)² + β γ φ_ij(z_i, z_j)  -  η Σ log p(z_i) / blocks,

    where φ is the difference of the pixels that meet there and p is binomial with probability λ. Then each image's
    regions are permuted to minimise ξ times their squared distance less the saliency that comes to lie where the image
    is kept.

    All constants are the published recipe's for CIFAR, including the division of β by 16 times the blocks along a side.

    Ours differs in four things. Both problems are solved exactly, by a minimum cut and by linear assignment, where
    the paper uses swaps and a heuristic. All regions of an image are permuted; the released code moves those that are
    seen and leaves the others. The loss is cross-entropy, as of all methods here, instead of their binary
    cross-entropy per class. And no adversarial noise is added.

    Args:
        classifier: the network to train.
        alpha: α of λ ~ Beta(α, α), which is drawn once a mini-batch.
        beta: β, the weight of smooth masks.
        gamma: γ, the weight of smooth images; above 1 a border's weight could be negative.
        eta: η, the weight of the prior.
        xi: ξ, the cost of transport.
        seed: seed of all draws of the method.

    Raises:
        ImportError: SciPy is missing (at the first mini-batch).
        ValueError: an image's side is odd (at the first mini-batch).

    Source: Kim, Choo & Song (ICML 2020), and their released code.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        alpha: float = 1.0,
        beta: float = 1.2,
        gamma: float = 0.5,
        eta: float = 0.2,
        xi: float = 0.8,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, alpha=alpha, seed=seed)
        check_range(high=1, gamma=gamma)
        check_range(beta=beta, eta=eta, xi=xi)
        self.beta, self.gamma, self.eta, self.xi = beta, gamma, eta, xi

    def mix_batch(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Mixed images and their targets, by each image's share of the mask.

        Energies and images are computed in single precision at least, also under autocast.
        """
        partners, lam = draw_pairs(len(images), self.alpha, generator=self.cpu_generator, device=images.device)
        size, dtype = images.shape[-1], images.dtype
        choices = [blocks for blocks in BLOCKS if size % blocks == 0]
        if not choices:
            raise ValueError(f"puzzlemix takes images whose side is an even number of pixels, got {size}")
        blocks = choices[int(torch.randint(len(choices), (), generator=self.cpu_generator, device="cpu"))]
        saliency = saliency_map(self.classifier, images, labels)
        images = images.to(accumulation_dtype(dtype))
        with torch.autocast(images.device.type, enabled=False):
            labelling = minimize_energy_exact(*self.energy(images, saliency, partners, lam, blocks))
            mask = 1 - labelling.to(images.device, images.dtype) / 2
            own = transport(images, saliency, mask > 0, self.xi)
            partner = transport(images[partners], saliency[partners], mask < 1, self.xi)
            targets, kept = self.one_hot(labels), mask.mean(dim=(1, 2)).unsqueeze(1)
            mixed = torch.lerp(partner, own, upsample_blocks(mask, size).unsqueeze(1))
            return mixed.to(dtype), torch.lerp(targets[partners], targets, kept.to(targets.dtype))

    def energy(
        self, images: Images, saliency: Saliency, partners: Int[Tensor, " m"], lam: float, blocks: int
    ) -> tuple[Float[Tensor, "m blocks blocks 3"], Float[Tensor, "m _ blocks"], Float[Tensor, "m blocks _"]]:
        """Arguments of `minimize_energy_exact`: the cost of every share of every block, and the borders' weights.

        φ is linear in both shares, z_i z_j φ11 + z_i (1 - z_j) φ10 + (1 - z_i) z_j φ01 + (1 - z_i) (1 - z_j) φ00. With
        z² taken for z, which is exact for whole shares, it is up to a constant a sum of costs of blocks and of squared
        differences.
        """
        side, beta = images.shape[-1] // blocks, self.beta / (16 * blocks)
        region = region_side(side)
        example = F.avg_pool2d(images, region)
        partner = example[partners]
        block_saliency = pool_saliency(saliency, blocks)
        cost_keep, cost_replace = block_saliency[partners].clone(), block_saliency.clone()  # of z = 1 and of z = 0
        weights = []
        for keep, replace, x, y in (
            (cost_keep, cost_replace, example, partner),  # borders below the blocks
            (cost_keep.mT, cost_replace.mT, example.mT, partner.mT),  # borders beside them
        ):
            phi_11, phi_10, phi_01, phi_00 = (
                beta * self.gamma * border_difference(above, below, side // region)
                for above in (x, y)
                for below in (x, y)
            )
            keep[:, :-1] += (phi_11 + phi_10) / 2
            keep[:, 1:] += (phi_11 + phi_01) / 2
            replace[:, :-1] += (phi_01 + phi_00) / 2
            replace[:, 1:] += (phi_10 + phi_00) / 2
            weights.append(beta + (phi_10 + phi_01 - phi_11 - phi_00) / 2)
        prior = [lam**2, 2 * lam * (1 - lam), (1 - lam) ** 2]
        costs = [
            z * cost_keep + (1 - z) * cost_replace - self.eta / blocks**2 * math.log(p + 1e-8)
            for z, p in zip(SHARES, prior)
        ]
        return torch.stack(costs, dim=3), weights[0] / 4, weights[1].mT / 4  # labels are half a share apart


def region_side(block: int) -> int:
    """The side of the regions of a block of so many pixels: the divisor that is nearest to 4 by their ratio.

    Fewer pixels mean more regions, whose transport takes longer by the third power of their number.

    >>> [region_side(block) for block in (16, 8, 4, 2, 1, 14, 7)]
    [4, 4, 4, 2, 1, 7, 7]
    """
    divisors = [side for side in range(1, block + 1) if block % side == 0]
    return min(divisors, key=lambda side: max(side / REGION, REGION / side))


def upsample_blocks(mask: Blocks, size: int) -> Saliency:
    """Every block's value on all of its pixels."""
    return mask.repeat_interleave(size // mask.shape[1], 1).repeat_interleave(size // mask.shape[1], 2)


def border_difference(
    above: Float[Tensor, "m channels height width"], below: Float[Tensor, "m channels height width"], side: int
) -> Float[Tensor, "m _ _"]:
    """Mean absolute difference across the border below every block of side x side pixels but those at the bottom."""
    difference = (above[:, :, side - 1 : -1 : side] - below[:, :, side::side]).abs().mean(dim=1)
    return F.avg_pool2d(difference, (1, side))


def minimize_energy_exact(
    costs: Float[Tensor, "m h w labels"], below: Float[Tensor, "m _ w"], beside: Float[Tensor, "m h _"]
) -> Int[Tensor, "m h w"]:
    """Labels x of m grids that minimise Σ costs[x_i] + Σ w_ij (x_i - x_j)², exactly.

    With a binary unknown a label and block, x_i > k, this is a minimum cut, computed on the host. Numbers are rounded
    to a 2^30th of all costs together.

    Args:
        costs: cost of every label at every block.
        below, beside: the weights w, not negative, of the borders below and beside the blocks.

    Source: Ishikawa (IEEE TPAMI 2003), whose construction is exact for convex functions of x_i - x_j.
    """
    costs, below, beside = (x.detach().double().cpu().numpy() for x in (costs, below, beside))
    steps = np.diff(costs, axis=3)  # costs of x_i > k
    scale = 2**30 / (np.abs(steps).sum() or 1)
    grids = max(1, BLOCKS_TOGETHER // (costs.shape[1] * costs.shape[2]))
    parts = [slice(i, i + grids) for i in range(0, len(costs), grids)]
    return torch.from_numpy(np.concatenate([_minimum_cut(steps[i], below[i], beside[i], scale) for i in parts]))


def _minimum_cut(steps: np.ndarray, below: np.ndarray, beside: np.ndarray, scale: float) -> np.ndarray:
    """Labels of a few grids, by one minimum cut for all of them."""
    from scipy.sparse import csgraph, csr_array

    *shape, levels = steps.shape
    steps = steps.reshape(-1, levels)
    n = len(steps)
    blocks = np.arange(n).reshape(shape)
    i = np.concatenate([blocks[:, :-1].ravel(), blocks[:, :, :-1].ravel()])
    j = np.concatenate([blocks[:, 1:].ravel(), blocks[:, :, 1:].ravel()])
    w = np.concatenate([below.ravel(), beside.ravel()])
    source, sink = n * levels, n * levels + 1
    edges = []  # tail, head, and the cost if the tail is on the source's side (1) and the head is not
    for k in range(levels):
        nodes = n * k + blocks.ravel()
        edges += [(nodes, sink, steps[:, k].clip(min=0)), (source, nodes, (-steps[:, k]).clip(min=0))]
        edges += [(nodes, nodes - n, np.inf)] if k else []  # x > k implies x > k - 1
        for above in range(k, levels):  # (x_i - x_j)² of two blocks whose labels lie on either side of both levels
            times = 1 if above == k else 2
            edges += [(n * above + i, n * k + j, times * w), (n * above + j, n * k + i, times * w)]
    tail, head, cost = (np.concatenate(part) for part in zip(*(np.broadcast_arrays(*edge) for edge in edges)))
    capacity = np.rint(np.minimum(cost * scale, 2**30)).astype(np.int32)
    network = csr_array((capacity, (tail, head)), shape=(sink + 1, sink + 1))
    residual = network - csgraph.maximum_flow(network, source, sink).flow
    residual.eliminate_zeros()
    cut = np.zeros(sink + 1, dtype=np.int64)
    cut[csgraph.breadth_first_order(residual, source, return_predecessors=False)] = 1
    return cut[:source].reshape(levels, *shape).sum(axis=0)


def transport(images: Images, saliency: Saliency, target_mask: Tensor, xi: float) -> Images:
    """Permute an image's regions so that its salient ones lie in the target mask, at ξ times the squared distance.

    The distance is in image sides. Every image's assignment is exact, computed on the host.

    Args:
        target_mask: (m, blocks, blocks), true where the image will be seen.
    """
    from scipy.optimize import linear_sum_assignment

    size = images.shape[-1]
    region = region_side(size // target_mask.shape[1])
    along = size // region
    share = pool_saliency(saliency, along).flatten(1)
    ticks = torch.arange(along, device=images.device, dtype=share.dtype)
    coordinates = torch.cartesian_prod(ticks, ticks) / (along - 1)
    distance = (coordinates.unsqueeze(0) - coordinates.unsqueeze(1)).square().sum(dim=2)
    target = upsample_blocks(target_mask.to(share.dtype), along).flatten(1)
    gain = target.unsqueeze(2) * share.unsqueeze(1)  # (m, place, region)
    costs = (xi * distance - gain).detach().cpu().numpy()
    moved = torch.from_numpy(np.stack([linear_sum_assignment(cost)[1] for cost in costs])).to(images.device)
    regions = F.unfold(images, region, stride=region)
    regions = regions.gather(2, moved.unsqueeze(1).expand_as(regions))
    return F.fold(regions, size, region, stride=region)
