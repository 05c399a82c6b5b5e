"""Co-Mixup: the salient blocks of many images, in mixtures that differ from one another."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._checks import check_range
from mmlib._typing import Float, Images, Int, Labels, Targets
from mmlib.experiments.methods._saliency import Saliency, pool_saliency
from mmlib.experiments.methods.base import Method
from mmlib.sampling import check_alpha, sample_mixing_weights

BLOCKS = 4  # along a side (published recipe)
PART = 20  # images mixed with one another (published recipe)
ITERATIONS = 4  # over all mixtures of a part (published recipe)
MOVES = 6  # per mixture and iteration (our choice)
NEVER = 1e4  # cost of a label that is not offered


class CoMixup(Method):
    """As many mixtures as images, every block from one of 20 images or half of it from either of two.

    o_j counts the blocks of every image in mixture j. The blocks minimise, with s the images' saliencies,

        - Σ s of what is kept + β Σ ½ ‖z - z'‖² over borders + γ Σ o_jᵀ A o_j' over pairs of mixtures - η Σ log α,

    z a block's shares, each term but the first divided by the number of blocks. An image is charged for its blocks in
    other mixtures above the threshold τ only. A is 1 for the same image and grows a little, by ω, with the distance
    between where images are salient; α is drawn for every image from a Dirichlet distribution. The loss is the mean
    of the mixtures' and of the images'.

    All constants are the published recipe's for CIFAR. Mixtures are relabelled in turn, all others fixed; halves are
    offered from the second time on, of the three images that a mixture has most of; so is it in the released code.

    Ours differs in four things. A mixture is relabelled by expansion moves, each solved exactly on the device, where
    theirs swaps by graph cuts. Halves get no bonus, and mixtures of the same images are not told apart afterwards. The
    loss is cross-entropy instead of their binary cross-entropy per class.

    Args:
        alpha: of the Dirichlet prior.
        beta, gamma, eta: β, γ and η above, of smooth masks, diverse mixtures and the prior.
        tau: τ, in images.
        omega: ω, how much A heeds where images are salient.
        clean: weight of the images' own loss beside the mixtures'.

    Raises:
        ValueError: at the first mini-batch, if an image's side is not divisible by 4.

    Source: Kim, Choo, Jeong & Song (ICLR 2021), and their released code.
    """

    def __init__(
        self,
        classifier: nn.Module,
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
        check_alpha(1, 2, alpha)
        check_range(most=1, omega=omega)
        check_range(beta=beta, gamma=gamma, eta=eta, tau=tau, clean=clean)
        self.alpha, self.beta, self.gamma, self.eta = alpha, beta, gamma, eta
        self.tau, self.omega, self.clean = tau, omega, clean

    def forward(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        classifier = self.classifier
        inputs = classifier.normalise(images).requires_grad_()
        plain = F.cross_entropy(classifier.classify(classifier.encoder(inputs)), labels)
        (gradient,) = torch.autograd.grad(plain, inputs, retain_graph=True)
        mixed, targets = self.mix(images, labels, gradient.norm(dim=1))
        return (F.cross_entropy(classifier(mixed), targets) + self.clean * plain) / (1 + self.clean)

    @torch.no_grad()
    def mix(self, images: Images, labels: Labels, saliency: Saliency) -> tuple[Images, Targets]:
        """Mixed images and their targets, by each one's share of the blocks."""
        m, _, size, _ = images.shape
        if size % BLOCKS:
            raise ValueError(f"images are {size} pixels wide; comixup takes a multiple of {BLOCKS}")
        targets, mixed, of_mixed = self.one_hot(labels), [], []
        # All whole parts at once, then what is left over.
        for rows in torch.arange(m, device=images.device).tensor_split([m - m % PART]):
            if len(rows):
                rows = rows.unflatten(0, (-1, min(PART, len(rows))))
                shares = self.shares(saliency[rows])
                cells = images[rows].unflatten(-1, (BLOCKS, -1)).unflatten(-3, (BLOCKS, -1))
                cells = torch.einsum("pkyxn,pncyixj->pkcyixj", shares.to(cells.dtype), cells)
                mixed.append(cells.reshape(-1, *images.shape[1:]))
                of_mixed.append((shares.mean((2, 3)).to(targets.dtype) @ targets[rows]).flatten(0, 1))
        return torch.cat(mixed), torch.cat(of_mixed)

    def shares(self, saliency: Float[Tensor, "parts n size size"]) -> Float[Tensor, "parts n blocks blocks n"]:
        """Of every block of n mixtures a part, the share of every image of the part."""
        parts, n = saliency.shape[:2]
        area, blocks = BLOCKS**2, (BLOCKS, BLOCKS)
        prior = sample_mixing_weights(parts, n, self.alpha, generator=self.generator, dtype=saliency.dtype)
        costs = -pool_saliency(saliency.flatten(0, 1), BLOCKS).view(parts, n, *blocks)
        costs = costs - self.eta / area * (prior + 1e-8).log().view(parts, n, 1, 1)
        alike = compatibility(saliency, self.omega)
        start = torch.randint(n, (parts, n, *blocks), generator=self.generator, device=saliency.device)
        shares = F.one_hot(start, n).to(saliency.dtype)
        for iteration in range(ITERATIONS):
            for k in range(n):
                own = shares[:, k].sum(dim=(1, 2))
                others = torch.einsum("pij,pj->pi", alike, shares.sum(dim=(1, 2, 3)) - own)
                charge = 2 * self.gamma / area * others * (others > self.tau * area)
                choices, offered = offer_halves(own if iteration else torch.zeros_like(own))
                of_labels = torch.einsum("pln,pnyx->plyx", choices, costs + charge.view(parts, n, 1, 1))
                of_labels = of_labels + NEVER * ~offered.view(parts, -1, 1, 1)
                borders = self.beta / area / 2 * torch.cdist(choices, choices).square()
                labels = least_energy(of_labels, borders).flatten(1)
                shares[:, k] = choices.gather(1, labels.unsqueeze(2).expand(-1, -1, n)).view(parts, *blocks, n)
        return shares


def compatibility(saliency: Float[Tensor, "parts n size size"], omega: float) -> Float[Tensor, "parts n n"]:
    """A = (1 - ω) I + ω D, D the ℓ1 distances between where images are most salient, of mean 1 over a row.

    Windows of a quarter of a side are compared (published recipe: 8 of 32 pixels).
    """
    n, size = saliency.shape[1], saliency.shape[-1]
    windows = F.avg_pool2d(saliency, size // 4, stride=1)
    at = windows.flatten(2).argmax(dim=2)
    at = torch.stack([at // windows.shape[-1], at % windows.shape[-1]], dim=2).to(saliency.dtype)
    distance = torch.cdist(at, at, p=1)
    distance = n * distance / distance.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return torch.lerp(torch.eye(n, device=at.device, dtype=at.dtype).expand_as(distance), distance, omega)


def offer_halves(counts: Float[Tensor, "parts n"]) -> tuple[Float[Tensor, "parts labels n"], Tensor]:
    """Labels as shares of n images, each alone and halves of any two of the three with most blocks, and which to offer.

    Not offered, (parts, labels), are halves of images of which there is nothing.
    """
    n = counts.shape[1]
    whole = torch.eye(n, device=counts.device, dtype=counts.dtype).expand(len(counts), n, n)
    most, top = counts.topk(min(3, n), dim=1)
    first, second = torch.combinations(torch.arange(top.shape[1], device=counts.device)).T
    halves = (F.one_hot(top[:, first], n) + F.one_hot(top[:, second], n)).to(counts.dtype) / 2
    offered = torch.cat([torch.ones_like(counts, dtype=torch.bool), most[:, second] > 0], dim=1)
    return torch.cat([whole, halves], dim=1), offered


def least_energy(
    costs: Float[Tensor, "g labels h w"], borders: Float[Tensor, "g labels labels"], moves: int = MOVES
) -> Int[Tensor, "g h w"]:
    """Labels x of g grids with a small Σ costs[x_i] + Σ borders[x_i, x_j], every label first where it costs least.

    A move gives one label to the blocks whose energy falls most by it: the best of all sets of blocks and of all
    labels. What is reached need not be the least energy of all.

    Args:
        costs: of every label at every block.
        borders: between labels, symmetric and zero on the diagonal.
        moves: at most; on the CPU alone it is asked whether one changed anything, elsewhere that would wait.
    """
    labels = costs.argmin(dim=1)
    for _ in range(moves):
        before, labels = labels, expand(costs, borders, labels)
        if labels.device.type == "cpu" and torch.equal(labels, before):
            break
    return labels


def expand(
    costs: Float[Tensor, "g labels h w"], borders: Float[Tensor, "g labels labels"], labels: Int[Tensor, "g h w"]
) -> Int[Tensor, "g h w"]:
    """The best move of `least_energy`, found for every label by dynamic programming over rows, all sets of each."""
    g, count, h, w = costs.shape
    moves, in_row, between_rows = _sets(w, costs.device, costs.dtype)
    before = costs.gather(1, labels.unsqueeze(1))
    # A border costs what it did between two blocks that stay, nothing between two that move, else what is asked here.
    asked = borders.gather(2, labels.view(g, 1, -1).expand(-1, count, -1)).view_as(costs)
    beside = asked[..., 1:].gather(1, labels[:, None, :, :-1]).expand(-1, count, -1, -1)
    row = before.sum(dim=3, keepdim=True) + (costs - before) @ moves.T  # (g, labels, h, sets)
    row += torch.cat([beside, asked[..., 1:], asked[..., :-1]], dim=3) @ in_row
    below = asked[:, :, 1:].gather(1, labels[:, None, :-1]).expand(-1, count, -1, -1)
    step = torch.cat([below, asked[:, :, 1:], asked[:, :, :-1]], dim=3) @ between_rows
    step = step.unflatten(3, (2**w, -1))  # (g, labels, h - 1, sets of a row, sets of the row above)
    energies = [row[:, :, 0]]  # of the rows down to this one
    for y in range(1, h):
        energies.append((energies[-1].unsqueeze(2) + step[:, :, y - 1]).amin(dim=3) + row[:, :, y])
    grid, label = torch.arange(g, device=costs.device), energies[-1].amin(dim=2).argmin(dim=1)
    sets = [energies[-1][grid, label].argmin(dim=1)]
    for y in range(h - 1, 0, -1):
        sets.insert(0, (energies[y - 1][grid, label] + step[grid, label, y - 1, sets[0]]).argmin(dim=1))
    return torch.where(moves[torch.stack(sets, dim=1)] > 0, label.view(g, 1, 1), labels)


@functools.cache
def _sets(w: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """All sets of a row's w blocks, as (sets, w), and where both blocks stay, one moves, or the other does.

    Of neighbours in a row, (3 (w - 1), sets), and of those below one another, (3 w, sets of a row x sets above).
    """
    moves = (torch.arange(2**w, device=device).unsqueeze(1) >> torch.arange(w, device=device) & 1).to(dtype)
    which = ((1 - moves, 1 - moves), (moves, 1 - moves), (1 - moves, moves))
    in_row = torch.cat([(a[:, :-1] * b[:, 1:]).T for a, b in which])
    return moves, in_row, torch.cat([(a * b.unsqueeze(1)).flatten(0, 1).T for a, b in which])
