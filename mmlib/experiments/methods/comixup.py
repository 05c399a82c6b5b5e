"""Co-Mixup: the salient blocks of many images, in mixtures that differ from one another."""

import functools
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Int, Labels, Targets
from mmlib.experiments.methods._saliency import Saliency, gradient_norm, pool_saliency
from mmlib.experiments.methods.base import Method, cross_entropy, is_on_cpu
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import accumulation_dtype
from mmlib.sampling import check_alpha, sample_mixing_weights

BLOCKS = 4  # blocks along a side (published recipe)
GROUP_SIZE = 20  # images mixed with one another (published recipe)
ITERATIONS = 4  # passes over all mixtures of a group (published recipe)
MAX_MOVES = 6  # moves per mixture and pass (our choice)
FORBIDDEN_COST = 1e4  # cost of a label that is not allowed


class CoMixup(Method):
    """As many mixtures as images, every block from one of 20 images or half of it from either of two.

    Let o_j count the blocks of every image in mixture j, s be the images' saliencies and z a block's shares. The
    blocks minimise

        - Σ s of the image that is kept + β Σ ½ ‖z - z'‖² over borders + γ Σ o_jᵀ A o_j' over pairs of mixtures
        - η Σ log α,

    where each term but the first is divided by the number of blocks. An image is charged for its blocks in other
    mixtures above the threshold τ only. The compatibility A is 1 for the same image and grows a little, by ω, with
    the distance between the images' most salient places. The prior α is drawn for every image from a Dirichlet
    distribution. The loss is the mean of the mixtures' loss and of the images' own.

    All constants are the published recipe's for CIFAR. As in the released code, mixtures are relabelled in turn while
    all others are fixed, and from the second pass on halves are offered of the three images that a mixture has most of.

    Ours differs in four things. A mixture is relabelled by expansion moves, each solved exactly on the device, where
    theirs swaps by graph cuts. Halves get no bonus, and mixtures of the same images are not told apart afterwards. The
    loss is cross-entropy instead of their binary cross-entropy per class. The images' own loss has weight 1 beside the
    mixtures'; the weight of the release amounts to 1.25 to 1.94.

    Args:
        classifier: the network to train.
        alpha: concentration of the Dirichlet prior.
        beta: β, the weight of smooth masks.
        gamma: γ, the weight of diverse mixtures.
        eta: η, the weight of the prior.
        tau: τ, the threshold, in images.
        omega: ω, the part of A that heeds where images are salient.
        clean: weight of the images' own loss beside the mixtures'.
        seed: seed of all draws of the method.

    Raises:
        ValueError: an image's side is not divisible by 4 (at the first mini-batch).

    Source: Kim, Choo, Jeong & Song (ICLR 2021), and their released code.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        *,
        alpha: float = 2.0,
        beta: float = 0.32,
        gamma: float = 1.0,
        eta: float = 0.05,
        tau: float = 0.83,
        omega: float = 0.001,
        clean: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_alpha(alpha, pair=False)
        check_range(high=1, omega=omega)
        check_range(beta=beta, gamma=gamma, eta=eta, tau=tau, clean=clean)
        self.alpha, self.beta, self.gamma, self.eta = alpha, beta, gamma, eta
        self.tau, self.omega, self.clean = tau, omega, clean

    def compute_loss(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Mean of the mixtures' cross-entropy and of the images' own."""
        classifier = self.classifier
        inputs = classifier.normalise(images).requires_grad_()
        plain = cross_entropy(classifier.classify(classifier.encoder(inputs)), labels)
        (gradient,) = torch.autograd.grad(plain, inputs, retain_graph=True)
        mixed, targets = self.mix_batch(images, labels, gradient_norm(gradient))
        return (cross_entropy(classifier(mixed), targets) + self.clean * plain) / (1 + self.clean)

    @torch.no_grad()
    def mix_batch(self, images: Images, labels: Labels, saliency: Saliency) -> tuple[Images, Targets]:
        """Mixed images and their targets, by each image's share of the blocks.

        Energies and images are computed in single precision at least, also under autocast.
        """
        m, _, size, _ = images.shape
        if size % BLOCKS:
            raise ValueError(f"comixup takes images whose side is a multiple of {BLOCKS} pixels, got {size}")
        dtype = accumulation_dtype(images.dtype)
        targets, mixed, mixed_targets = self.one_hot(labels), [], []
        with torch.autocast(images.device.type, enabled=False):
            # All whole groups at once, then the images that are left over.
            for rows in torch.arange(m, device=images.device).tensor_split([m - m % GROUP_SIZE]):
                if len(rows):
                    rows = rows.unflatten(0, (-1, min(GROUP_SIZE, len(rows))))
                    shares = self.shares(saliency[rows])
                    cells = images[rows].to(dtype).unflatten(-1, (BLOCKS, -1)).unflatten(-3, (BLOCKS, -1))
                    cells = torch.einsum("pkyxn,pncyixj->pkcyixj", shares.to(dtype), cells)
                    mixed.append(cells.reshape(-1, *images.shape[1:]))
                    mixed_targets.append((shares.mean((2, 3)).to(targets.dtype) @ targets[rows]).flatten(0, 1))
        return torch.cat(mixed).to(images.dtype), torch.cat(mixed_targets)

    def shares(self, saliency: Float[Tensor, "groups n size size"]) -> Float[Tensor, "groups n blocks blocks n"]:
        """Of every block of a group's n mixtures, the share of every image of the group."""
        groups, n = saliency.shape[:2]
        area, blocks = BLOCKS**2, (BLOCKS, BLOCKS)
        prior = sample_mixing_weights(groups, n, self.alpha, generator=self.generator, dtype=saliency.dtype)
        costs = -pool_saliency(saliency.flatten(0, 1), BLOCKS).view(groups, n, *blocks)
        costs = costs - self.eta / area * (prior + 1e-8).log().view(groups, n, 1, 1)
        compatible = compatibility(saliency, self.omega)
        start = torch.randint(n, (groups, n, *blocks), generator=self.generator, device=saliency.device)
        shares = F.one_hot(start, n).to(saliency.dtype)
        for iteration in range(ITERATIONS):
            for k in range(n):
                own = shares[:, k].sum(dim=(1, 2))
                others = torch.einsum("pij,pj->pi", compatible, shares.sum(dim=(1, 2, 3)) - own)
                charge = 2 * self.gamma / area * others * (others > self.tau * area)
                choices, allowed = candidate_labels(own if iteration else torch.zeros_like(own))
                label_costs = torch.einsum("pln,pnyx->plyx", choices, costs + charge.view(groups, n, 1, 1))
                label_costs = label_costs + FORBIDDEN_COST * ~allowed.view(groups, -1, 1, 1)
                border_costs = self.beta / area / 2 * torch.cdist(choices, choices).square()
                labels = minimize_energy_expansion(label_costs, border_costs).flatten(1)
                shares[:, k] = choices.gather(1, labels.unsqueeze(2).expand(-1, -1, n)).view(groups, *blocks, n)
        return shares


def compatibility(saliency: Float[Tensor, "groups n size size"], omega: float) -> Float[Tensor, "groups n n"]:
    """A = (1 - ω) I + ω D, where D are the ℓ1 distances between the images' most salient places.

    D is scaled so that its rows sum to 1 on average, as in the released code. Windows of a quarter of a side are
    compared (published recipe: 8 of 32 pixels).
    """
    n, size = saliency.shape[1], saliency.shape[-1]
    windows = F.avg_pool2d(saliency, size // 4, stride=1)
    flat_index = windows.flatten(2).argmax(dim=2)
    yx = torch.stack([flat_index // windows.shape[-1], flat_index % windows.shape[-1]], dim=2).to(saliency.dtype)
    distance = torch.cdist(yx, yx, p=1)
    distance = n * distance / distance.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return torch.lerp(torch.eye(n, device=yx.device, dtype=yx.dtype).expand_as(distance), distance, omega)


def candidate_labels(counts: Float[Tensor, "groups n"]) -> tuple[Float[Tensor, "groups labels n"], Tensor]:
    """Labels as shares of n images: each image alone, and halves of any two of the three images with most blocks.

    Returns:
        The labels, and (groups, labels) which of them are allowed. Halves that involve an image without blocks are not.
    """
    n = counts.shape[1]
    whole = torch.eye(n, device=counts.device, dtype=counts.dtype).expand(len(counts), n, n)
    most, top = counts.topk(min(3, n), dim=1)
    first, second = _pairs(top.shape[1], counts.device)
    halves = (F.one_hot(top[:, first], n) + F.one_hot(top[:, second], n)).to(counts.dtype) / 2
    allowed = torch.cat([torch.ones_like(counts, dtype=torch.bool), most[:, second] > 0], dim=1)
    return torch.cat([whole, halves], dim=1), allowed


@functools.cache
def _pairs(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First and second members of all pairs of n; `torch.combinations` would wait for the device."""
    pairs = list(itertools.combinations(range(n), 2))
    return torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).unbind(1)


def minimize_energy_expansion(
    costs: Float[Tensor, "g labels h w"], border_costs: Float[Tensor, "g labels labels"], max_moves: int = MAX_MOVES
) -> Int[Tensor, "g h w"]:
    """Labels x of g grids with a small Σ costs[x_i] + Σ border_costs[x_i, x_j], starting where `costs` is least.

    A move gives one label to the blocks whose energy falls most by it: the best of all sets of blocks and of all
    labels. The energy that is reached need not be the least of all.

    Args:
        costs: cost of every label at every block.
        border_costs: cost between labels, symmetric and zero on the diagonal.
        max_moves: largest number of moves. On the CPU they end when one changes nothing; elsewhere it is not asked,
            for the answer would have to be waited for.
    """
    labels = costs.argmin(dim=1)
    for _ in range(max_moves):
        before, labels = labels, expansion_move(costs, border_costs, labels)
        if is_on_cpu(labels) and torch.equal(labels, before):
            break
    return labels


def expansion_move(
    costs: Float[Tensor, "g labels h w"], border_costs: Float[Tensor, "g labels labels"], labels: Int[Tensor, "g h w"]
) -> Int[Tensor, "g h w"]:
    """The best move of `minimize_energy_expansion`, found for all labels by dynamic programming over rows."""
    g, count, h, w = costs.shape
    subsets, in_row, between_rows = _row_subsets(w, costs.device, costs.dtype)
    before = costs.gather(1, labels.unsqueeze(1)).expand_as(costs)
    # Border cost: unchanged if neither block moves, zero if both take the new label, else cost(new label, old label).
    border = border_costs.gather(2, labels.view(g, 1, -1).expand(-1, count, -1)).view_as(costs)
    beside = border[..., 1:].gather(1, labels[:, None, :, :-1]).expand(-1, count, -1, -1)
    below = border[:, :, 1:].gather(1, labels[:, None, :-1]).expand(-1, count, -1, -1)
    # Energies of the subsets of a row, (g, labels, h, subsets), and of its border with the row above.
    row = torch.cat([before, costs, beside, border[..., 1:], border[..., :-1]], dim=3) @ in_row
    step = torch.cat([below, border[:, :, 1:], border[:, :, :-1]], dim=3) @ between_rows
    step = step.unflatten(3, (2**w, -1))  # (g, labels, h - 1, subsets of a row, subsets of the row above)
    energy, best_above = row[:, :, 0], []
    for y in range(1, h):
        energy, best = (energy.unsqueeze(2) + step[:, :, y - 1]).min(dim=3)
        energy = energy + row[:, :, y]
        best_above.append(best)
    energy, subset = energy.min(dim=2)
    label = energy.argmin(dim=1, keepdim=True)
    chosen = [subset.gather(1, label)]  # the best label's subset of the last row, then of each row above
    for best in reversed(best_above):
        best = best.gather(1, label.unsqueeze(2).expand(-1, -1, best.shape[2])).squeeze(1)
        chosen.insert(0, best.gather(1, chosen[0]))
    return torch.where(subsets[torch.cat(chosen, dim=1)] > 0, label.unsqueeze(2), labels)


@functools.cache
def _row_subsets(w: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """All subsets of a row's w blocks, (subsets, w), and what is paid if a subset moves.

    A block stays or moves. At a border neither block moves, or the second does, or the first. So it is in a row,
    (w + w + 3 (w - 1), subsets), and at the borders below one another, (3 w, subsets of a row x subsets of the row
    above).
    """
    subsets = (torch.arange(2**w, device=device).unsqueeze(1) >> torch.arange(w, device=device) & 1).to(dtype)
    cases = ((1 - subsets, 1 - subsets), (subsets, 1 - subsets), (1 - subsets, subsets))
    in_row = torch.cat([(1 - subsets).T, subsets.T, *((a[:, :-1] * b[:, 1:]).T for a, b in cases)])
    return subsets, in_row, torch.cat([(a * b.unsqueeze(1)).flatten(0, 1).T for a, b in cases])
