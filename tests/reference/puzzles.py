"""Puzzle Mix and Co-Mixup as their formulas read, and the best of all labellings, found by trying each.

Independent of mmlib on purpose, and slow.
"""

import itertools
import math

import torch


def neighbours(h, w):
    """Pairs of blocks that share a border, each a pair of (row, column)."""
    for y, x in itertools.product(range(h), range(w)):
        if y + 1 < h:
            yield (y, x), (y + 1, x)
        if x + 1 < w:
            yield (y, x), (y, x + 1)


def quadratic_energy(costs, below, beside, labels):
    """Σ costs + Σ w (x_i - x_j)² of labellings (..., h, w) of a grid; costs (h, w, labels), weights one less a side."""
    h, w = labels.shape[-2:]
    total = sum(costs[y, x][labels[..., y, x]] for y, x in itertools.product(range(h), range(w)))
    for (y, x), (v, u) in neighbours(h, w):
        weight = below[y, x] if v > y else beside[y, x]
        total = total + weight * (labels[..., y, x] - labels[..., v, u]) ** 2
    return total


def every_labelling(h, w, count):
    """All of them, (count ** (h w), h, w)."""
    return torch.cartesian_prod(*[torch.arange(count)] * (h * w)).view(-1, h, w)


def pooled(image, side):
    """Mean of every square of side x side pixels of a (size, size) map."""
    n = len(image) // side
    rows = [[image[y * side : (y + 1) * side, x * side : (x + 1) * side].mean() for x in range(n)] for y in range(n)]
    return torch.stack([torch.stack(row) for row in rows])


def puzzle_energy(image, partner, s, t, z, lam, region, beta, gamma, eta):
    """Energy of the shares z (blocks, blocks) for whole shares z, images (channels, size, size), saliencies s and t.

    s and t are pooled to blocks and sum to 1. At a border between blocks the pixels on both sides, averaged over
    regions, are those of the image that each block shows.
    """
    blocks = len(z)
    beta = beta / (16 * blocks)
    side = image.shape[1] // blocks
    shown = torch.zeros_like(image)
    total = 0.0
    for y, x in itertools.product(range(blocks), repeat=2):
        here = (slice(None), slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side))
        shown[here] = image[here] if z[y, x] == 1 else partner[here]
        total += float(t[y, x] if z[y, x] == 1 else s[y, x])
        total -= eta / blocks**2 * math.log((lam**2 if z[y, x] == 1 else (1 - lam) ** 2) + 1e-8)
    smooth = torch.stack([pooled(channel, region) for channel in shown])
    k = side // region
    for (y, x), (v, u) in neighbours(blocks, blocks):
        total += beta * float(z[y, x] - z[v, u]) ** 2
        differences = []
        for along in range(k):
            if v > y:
                a, b = smooth[:, v * k - 1, x * k + along], smooth[:, v * k, x * k + along]
            else:
                a, b = smooth[:, y * k + along, u * k - 1], smooth[:, y * k + along, u * k]
            differences.append((a - b).abs().mean())
        total += beta * gamma * float(sum(differences)) / k
    return total


def permutation_costs(s, wanted, xi, orders):
    """ξ distance² - saliency where wanted, of permutations (k, n²) of the regions of a map s (n, n), by place."""
    n = len(s)
    places = list(itertools.product(range(n), repeat=2))
    costs = torch.zeros(n * n, n * n, dtype=torch.double)
    for (place, (y, x)), (region, (v, u)) in itertools.product(enumerate(places), repeat=2):
        costs[place, region] = xi * ((y - v) ** 2 + (x - u) ** 2) / (n - 1) ** 2 - s[v, u] * wanted[y, x]
    return sum(costs[place, orders[:, place]] for place in range(n * n))


def labelled_energy(costs, borders, labels):
    """Σ costs + Σ borders[x_i, x_j] of labellings (..., h, w) of a grid; costs (labels, h, w)."""
    h, w = labels.shape[-2:]
    total = sum(costs[:, y, x][labels[..., y, x]] for y, x in itertools.product(range(h), range(w)))
    for (y, x), (v, u) in neighbours(h, w):
        total = total + borders[labels[..., y, x], labels[..., v, u]]
    return total


def expansions(labels, count):
    """Every labelling that gives one label to some blocks of a grid, (count * 2 ** (h w), h, w)."""
    h, w = labels.shape
    sets = every_labelling(h, w, 2) == 1
    return torch.cat([torch.where(sets, torch.tensor(label), labels) for label in range(count)])


def distances_of_peaks(saliency, window):
    """ℓ1 distances between the corners of the windows with most saliency, (n, n)."""
    peaks = []
    for image in saliency:
        n = len(image) - window + 1
        sums = {(y, x): float(image[y : y + window, x : x + window].sum()) for y in range(n) for x in range(n)}
        peaks.append(max(sums, key=sums.get))
    return torch.tensor([[abs(y - v) + abs(x - u) for v, u in peaks] for y, x in peaks]).double()


def comixup_shares(saliency, prior, start, alike, beta, gamma, eta, tau, iterations):
    """Shares (n, blocks, blocks, n) of n mixtures of a part, relabelled in turn, each time by trying all labellings.

    saliency (n, blocks, blocks) sums to 1 for every image; start (n, blocks, blocks) are the images at first.
    """
    n, h, w = saliency.shape
    area = h * w
    whole = [[1.0 if i == k else 0.0 for i in range(n)] for k in range(n)]
    shares = torch.tensor([[[whole[k] for k in row] for row in grid] for grid in start.tolist()]).double()
    for iteration in range(iterations):
        for k in range(n):
            counts = shares[k].sum((0, 1))
            choices = list(whole)
            if iteration:
                top = sorted(range(n), key=lambda i: -counts[i])[:3]
                for i, j in itertools.combinations(top, 2):
                    if counts[i] > 0 and counts[j] > 0:
                        choices.append([(a + b) / 2 for a, b in zip(whole[i], whole[j])])
            choices = torch.tensor(choices).double()
            others = alike @ sum(shares[j].sum((0, 1)) for j in range(n) if j != k)
            cost = torch.zeros(n, h, w, dtype=torch.double)
            for i in range(n):
                charge = 2 * gamma / area * others[i] if others[i] > tau * area else 0.0
                cost[i] = -saliency[i] - eta / area * math.log(prior[i] + 1e-8) + charge
            of_choice = torch.stack([sum(c * cost[i] for i, c in enumerate(choice)) for choice in choices])
            borders = torch.tensor(
                [[beta / area / 2 * ((a - b) ** 2).sum() for b in choices] for a in choices]
            ).double()
            every = every_labelling(h, w, len(choices))
            shares[k] = choices[every[labelled_energy(of_choice, borders, every).argmin()]]
    return shares


def comixup_objective(saliency, shares, alike, beta, gamma):
    """What relabelling in turn lowers while τ and η are zero and only whole images are offered."""
    n, h, w = saliency.shape
    total = 0.0
    for mixture in shares:
        total -= sum(float(mixture[y, x] @ saliency[:, y, x]) for y in range(h) for x in range(w))
        for (y, x), (v, u) in neighbours(h, w):
            total += beta / (h * w) / 2 * float((mixture[y, x] - mixture[v, u]).square().sum())
    counts = [mixture.sum((0, 1)) for mixture in shares]
    for i, j in itertools.permutations(range(n), 2):
        total += gamma / (h * w) * float(counts[i] @ alike @ counts[j])
    return total
