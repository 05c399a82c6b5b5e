"""Puzzle Mix: the salient blocks of two images, and where they go. It needs SciPy."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Int, Labels, Targets
from mmlib.experiments.methods._pairs import draw_pairs
from mmlib.experiments.methods._saliency import Blocks, Saliency, pool_saliency, saliency_map
from mmlib.experiments.methods.mixup import Mixup

BLOCKS = (2, 4, 8, 16)  # of the mask, along a side: one of those that divide it, drawn for every mini-batch


REGION = 4  # pixels along a side, at most, of what is transported and of what is averaged before borders are compared


SHARES = (1.0, 0.5, 0.0)  # of a block that the image keeps, by label


class PuzzleMix(Mixup):
    """Two images share the blocks of a grid so that little saliency is lost, and move theirs to where they are kept.

    Per block z is 0, 1/2 or 1, the example's share; s and s' are the saliencies of the example and its partner. The
    mask minimises, over blocks i and borders between blocks i and j,

        Σ z_i s'_i + (1 - z_i) s_i  +  Σ β (z_i - z_j)² + β γ φ_ij(z_i, z_j)  -  η Σ log p(z_i) / blocks,

    φ the difference of the pixels that meet there and p binomial with probability λ. Then either image's regions are
    permuted to minimise ξ times their squared distance less the saliency that comes to lie where the image is kept.

    All constants are the published recipe's for CIFAR: also that β is divided by 16 times the blocks along a side.

    Ours differs in three things. Both problems are solved exactly, by a minimum cut and by linear assignment, where
    the paper uses swaps and a heuristic. The loss is cross-entropy, as for all methods here, instead of their binary
    cross-entropy per class. And no adversarial noise is added.

    Args:
        beta, gamma, eta, xi: β, γ, η and ξ above, of smooth masks, smooth images, the prior and the transport.
        options: of `Mixup`; λ ~ Beta(α, α) is one a mini-batch.

    Raises:
        ImportError: at the first mini-batch, without SciPy.
        ValueError: there too, if an image's side is odd.

    Source: Kim, Choo & Song (ICML 2020), and their released code.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        beta: float = 1.2,
        gamma: float = 0.5,
        eta: float = 0.2,
        xi: float = 0.8,
        **options,
    ) -> None:
        super().__init__(classifier, **options)
        check_range(most=1, gamma=gamma)  # above 1 a border's weight can be negative
        check_range(beta=beta, eta=eta, xi=xi)
        self.beta, self.gamma, self.eta, self.xi = beta, gamma, eta, xi

    def mix(self, images: Images, labels: Labels) -> tuple[Images, Targets]:
        """Mixed images and their targets, by each one's share of the mask."""
        partners, lam = draw_pairs(self, len(images), self.alpha)
        choices = [blocks for blocks in BLOCKS if images.shape[-1] % blocks == 0]
        if not choices:
            raise ValueError(f"images are {images.shape[-1]} pixels wide; puzzlemix takes an even number")
        blocks = choices[int(torch.randint(len(choices), (), generator=self.cpu_generator))]
        saliency = saliency_map(self.classifier, images, labels)
        labelled = least_energy(*self.energy(images, saliency, partners, lam, blocks))
        mask = images.new_tensor(SHARES)[labelled.to(images.device)]
        own = transport(images, saliency, mask > 0, self.xi)
        partner = transport(images[partners], saliency[partners], mask < 1, self.xi)
        targets, kept = self.one_hot(labels), mask.mean(dim=(1, 2)).unsqueeze(1)
        mixed = torch.lerp(partner, own, enlarge(mask, images.shape[-1]).unsqueeze(1))
        return mixed, torch.lerp(targets[partners], targets, kept.to(targets.dtype))

    def energy(
        self, images: Images, saliency: Saliency, partners: Int[Tensor, " m"], lam: float, blocks: int
    ) -> tuple[Float[Tensor, "m blocks blocks 3"], Float[Tensor, "m _ blocks"], Float[Tensor, "m blocks _"]]:
        """What `least_energy` takes: the cost of every share of every block, and the borders' weights.

        φ is linear in both shares, z_i z_j φ11 + z_i (1 - z_j) φ10 + (1 - z_i) z_j φ01 + (1 - z_i) (1 - z_j) φ00, with
        z² taken for z, as it is for whole shares: up to a constant, costs of blocks and of squared differences.
        """
        side, beta = images.shape[-1] // blocks, self.beta / (16 * blocks)
        region = math.gcd(side, REGION)
        x = F.avg_pool2d(images, region)
        y = x[partners]
        share = pool_saliency(saliency, blocks)
        keep, give = share[partners].clone(), share.clone()  # costs of z = 1 and of z = 0
        weights = []
        for keep_, give_, x_, y_ in ((keep, give, x, y), (keep.mT, give.mT, x.mT, y.mT)):  # borders below, beside
            phi_11, phi_10, phi_01, phi_00 = (
                beta * self.gamma * border(above, below, side // region) for above in (x_, y_) for below in (x_, y_)
            )
            keep_[:, :-1] += (phi_11 + phi_10) / 2
            keep_[:, 1:] += (phi_11 + phi_01) / 2
            give_[:, :-1] += (phi_01 + phi_00) / 2
            give_[:, 1:] += (phi_10 + phi_00) / 2
            weights.append(beta + (phi_10 + phi_01 - phi_11 - phi_00) / 2)
        prior = [lam**2, 2 * lam * (1 - lam), (1 - lam) ** 2]
        costs = [z * keep + (1 - z) * give - self.eta / blocks**2 * math.log(p + 1e-8) for z, p in zip(SHARES, prior)]
        return torch.stack(costs, dim=3), weights[0] / 4, weights[1].mT / 4  # labels are half a share apart


def enlarge(mask: Blocks, size: int) -> Saliency:
    """Every block's value on all of its pixels."""
    return mask.repeat_interleave(size // mask.shape[1], 1).repeat_interleave(size // mask.shape[1], 2)


def border(
    above: Float[Tensor, "m channels height width"], below: Float[Tensor, "m channels height width"], k: int
) -> Float[Tensor, "m _ _"]:
    """Mean absolute difference across the border below every block of k x k pixels but those at the bottom."""
    difference = (above[:, :, k - 1 : -1 : k] - below[:, :, k::k]).abs().mean(dim=1)
    return F.avg_pool2d(difference, (1, k))


def least_energy(
    costs: Float[Tensor, "m h w labels"], below: Float[Tensor, "m _ w"], beside: Float[Tensor, "m h _"]
) -> Int[Tensor, "m h w"]:
    """Labels x of m grids that minimise Σ costs[x_i] + Σ w_ij (x_i - x_j)², exactly.

    With a binary unknown a label and block, x_i > k, this is a minimum cut, one for all grids; it has to wait for the
    device. Numbers are rounded to a 2^30th of all costs together.

    Args:
        costs: of every label of every block.
        below, beside: the weights w, not negative, of the borders below and beside the blocks.

    Source: Ishikawa (IEEE TPAMI 2003), whose construction is exact for convex functions of x_i - x_j.
    """
    from scipy.sparse import csgraph, csr_array

    steps = np.diff(costs.detach().double().flatten(0, 2).cpu().numpy(), axis=1)  # costs of x_i > k
    n, levels = steps.shape
    blocks = np.arange(n).reshape(costs.shape[:3])
    i = np.concatenate([blocks[:, :-1].ravel(), blocks[:, :, :-1].ravel()])
    j = np.concatenate([blocks[:, 1:].ravel(), blocks[:, :, 1:].ravel()])
    w = torch.cat([below.flatten(), beside.flatten()]).detach().double().cpu().numpy()
    source, sink = n * levels, n * levels + 1
    edges = []  # tail, head, what it costs that the tail is on the source's side, 1, and the head is not
    for k in range(levels):
        at = n * k + blocks.ravel()
        edges += [(at, sink, steps[:, k].clip(min=0)), (source, at, (-steps[:, k]).clip(min=0))]
        edges += [(at, at - n, np.inf)] if k else []  # x > k implies x > k - 1
        for above in range(k, levels):  # (x_i - x_j)² of two blocks whose labels lie on either side of both levels
            times = 1 if above == k else 2
            edges += [(n * above + i, n * k + j, times * w), (n * above + j, n * k + i, times * w)]
    tail, head, cost = (np.concatenate(part) for part in zip(*(np.broadcast_arrays(*edge) for edge in edges)))
    scale = 2**30 / (np.abs(steps).sum() or 1)
    capacity = np.rint(np.minimum(cost * scale, 2**30)).astype(np.int32)
    network = csr_array((capacity, (tail, head)), shape=(sink + 1, sink + 1))
    residual = network - csgraph.maximum_flow(network, source, sink).flow
    residual.eliminate_zeros()
    cut = np.zeros(sink + 1, dtype=np.int64)
    cut[csgraph.breadth_first_order(residual, source, return_predecessors=False)] = 1
    return torch.from_numpy(cut[:source].reshape(levels, *blocks.shape).sum(axis=0))


def transport(images: Images, saliency: Saliency, wanted: Tensor, xi: float) -> Images:
    """Permute every image's regions so that its salient ones lie in `wanted` blocks, at ξ times the squared distance.

    The distance is in image sides. Assignment is exact, on the host.

    Args:
        wanted: (m, blocks, blocks), where the image will be seen.
    """
    from scipy.optimize import linear_sum_assignment

    size = images.shape[-1]
    region = math.gcd(size // wanted.shape[1], REGION)
    along = size // region
    share = pool_saliency(saliency, along).flatten(1)
    at = torch.cartesian_prod(*[torch.arange(along, device=images.device, dtype=share.dtype)] * 2) / (along - 1)
    distance = (at.unsqueeze(0) - at.unsqueeze(1)).square().sum(dim=2)
    gain = enlarge(wanted.to(share.dtype), along).flatten(1).unsqueeze(2) * share.unsqueeze(1)  # (m, place, region)
    costs = (xi * distance - gain).detach().cpu().numpy()
    moved = torch.from_numpy(np.stack([linear_sum_assignment(cost)[1] for cost in costs])).to(images.device)
    regions = F.unfold(images, region, stride=region)
    regions = regions.gather(2, moved.unsqueeze(1).expand_as(regions))
    return F.fold(regions, size, region, stride=region)
