"""Puzzle Mix and Co-Mixup against their formulas, and against trying every mask and every permutation."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from mmlib import sample_mixing_weights
from mmlib.experiments.methods import METHODS, comixup
from mmlib.experiments.methods._saliency import pool_saliency, saliency_map
from mmlib.experiments.methods.puzzlemix import BLOCKS, minimize_energy_exact, region_side, transport, upsample_blocks
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.models.preact_resnet import preact_resnet
from mmlib.transforms import draw_pairs
from tests.helpers import assert_same, clone
from tests.reference import puzzles

M, C = 6, 3


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return Classifier(preact_resnet(3, 4, (1, 1)), 8, classes=C, mean=(0.4,) * 3, std=(0.2, 0.3, 0.4)).double()


@pytest.fixture
def batch():
    return rand(M, 3, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize(("h", "w", "count"), [(2, 2, 2), (3, 3, 3), (3, 2, 4), (1, 7, 3), (1, 2, 5)])
def test_minimum_cut_finds_the_best_labelling_of_all(h, w, count):
    grids = 12
    costs, below, beside = rand(grids, h, w, count), rand(grids, h - 1, w, seed=1), rand(grids, h, w - 1, seed=2)
    below, beside = below / count**2, beside / count**2
    found = minimize_energy_exact(costs, below, beside)
    assert len(found.flatten(1).unique(dim=0)) > 1
    for k in range(grids):
        grid = costs[k], below[k], beside[k]
        best = puzzles.quadratic_energy(*grid, puzzles.every_labelling(h, w, count)).min()
        torch.testing.assert_close(puzzles.quadratic_energy(*grid, found[k]), best, rtol=0, atol=1e-7)


def test_minimum_cut_of_costs_that_are_no_costs():
    assert (minimize_energy_exact(torch.zeros(1, 2, 2, 3), torch.ones(1, 1, 2), torch.ones(1, 2, 1)) == 0).all()
    costs = torch.tensor([[0.0, 3.0, 1.0]]).expand(1, 2, 2, 3)  # not convex in the label
    assert (minimize_energy_exact(-costs, torch.full((1, 1, 2), 1e9), torch.zeros(1, 2, 1)) == 1).all()


@pytest.mark.parametrize("blocks", [2, 4])
def test_energy_of_whole_shares_is_the_papers(classifier, batch, blocks):
    images = batch[0]
    method = METHODS["puzzlemix"](classifier, beta=3.0, gamma=0.8, eta=0.3)
    saliency, partners, lam = rand(M, 8, 8, seed=3), torch.tensor([1, 2, 3, 4, 5, 0]), 0.3
    costs, below, beside = method.energy(images, saliency, partners, lam, blocks)
    assert min(below.min(), beside.min()) >= 0
    region = {2: 4, 4: 2}[blocks]
    share = torch.stack([puzzles.pooled(s, 8 // blocks) for s in saliency])
    share = share / share.sum((1, 2), keepdim=True)
    for k, j in enumerate(partners.tolist()):
        ours, expected = [], []
        for z in [torch.zeros(blocks, blocks).long(), *((rand(blocks, blocks, seed=i) > 0.5).long() for i in range(4))]:
            ours.append(puzzles.quadratic_energy(costs[k], below[k], beside[k], 2 - 2 * z).item())
            expected.append(
                puzzles.puzzle_energy(
                    images[k], images[j], share[k], share[j], z, lam, region, beta=3.0, gamma=0.8, eta=0.3
                )
            )
        for i in range(1, 5):  # they differ by a constant
            assert ours[i] - ours[0] == pytest.approx(expected[i] - expected[0], rel=1e-9)


def test_energy_of_half_shares(classifier, batch):
    method = METHODS["puzzlemix"](classifier, gamma=0.0, eta=0.3)
    saliency, partners, lam = rand(M, 8, 8, seed=3), torch.tensor([1, 2, 3, 4, 5, 0]), 0.3
    costs, below, _ = method.energy(batch[0], saliency, partners, lam, 2)
    share = pool_saliency(saliency, 2)
    expected = (share + share[partners]) / 2 - 0.3 / 4 * torch.tensor(2 * 0.3 * 0.7 + 1e-8).double().log()
    torch.testing.assert_close(costs[..., 1], expected)
    torch.testing.assert_close(below, torch.full_like(below, 1.2 / 32 * 0.25))  # a step of one label is half a share


@pytest.mark.parametrize(("n", "side", "xi"), [(2, 2, 0.05), (2, 4, 0.004), (3, 4, 0.05)])
def test_transport_is_the_best_permutation(n, side, xi):
    size, seen = n * side, set()
    images, wanted = rand(8, 3, size, size), rand(8, n, n, seed=1) > 0.4
    saliency = rand(8, size, size, seed=2) ** 20
    moved = transport(images, saliency, wanted, xi)
    every = torch.tensor(list(itertools.permutations(range(n * n))))
    for k in range(8):
        regions, places = ([t for row in x[k].split(side, 1) for t in row.split(side, 2)] for x in (images, moved))
        order = [next(i for i, region in enumerate(regions) if region.equal(place)) for place in places]
        assert sorted(order) == list(range(n * n))
        seen.add(tuple(order))
        s = puzzles.pooled(saliency[k], side)
        best, ours = (puzzles.permutation_costs(s / s.sum(), wanted[k], xi, o) for o in (every, torch.tensor([order])))
        torch.testing.assert_close(ours[0], best.min())
    assert len(seen) > 2


@pytest.mark.parametrize("size", [24, 28, 30, 32, 36, 40, 48, 56, 60, 64])
def test_no_size_of_images_has_many_more_regions_than_32_pixels(size):
    """A transport's time grows with the third power of the regions, of which images of 28 pixels once had 784."""
    for blocks in (count for count in BLOCKS if size % count == 0):
        side = region_side(size // blocks)
        assert size // blocks % side == 0
        assert (size // side) ** 2 <= 256 * (size / 32) ** 2
        if size in (32, 64):  # the published sizes have the published regions
            assert side == min(4, size // blocks)


def test_a_region_is_the_part_of_a_block_that_is_nearest_to_4_pixels():
    assert [region_side(block) for block in (1, 2, 6, 7, 9, 10, 20)] == [1, 2, 3, 7, 3, 5, 4]


def test_transport_at_a_price_stays_at_home():
    images, saliency = rand(2, 3, 16, 16), rand(2, 16, 16)
    torch.testing.assert_close(transport(images, saliency, rand(2, 4, 4) > 0.5, 100.0), images)
    assert (transport(images, saliency, rand(2, 4, 4) > 0.5, 0.0) != images).any()


def test_distances_of_regions_are_exact_in_double_precision(monkeypatch):
    seen = []
    monkeypatch.setattr("scipy.optimize.linear_sum_assignment", lambda cost: seen.append(cost) or (None, range(16)))
    transport(rand(1, 3, 16, 16), rand(1, 16, 16), torch.zeros(1, 4, 4) > 0, 1.0)  # nothing is to be gained
    places = list(itertools.product(range(4), repeat=2))
    squares = [[(y - v) ** 2 + (x - u) ** 2 for v, u in places] for y, x in places]
    torch.testing.assert_close(torch.from_numpy(seen[0]), torch.tensor(squares).double() / 9, rtol=0, atol=1e-14)


def test_saliency_is_the_gradients_norm_and_leaves_no_trace(classifier, batch):
    images, labels = batch
    classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    saliency = saliency_map(classifier, images, labels)
    assert classifier.training
    torch.testing.assert_close(dict(classifier.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in classifier.parameters())
    classifier.eval()
    step = 1e-5
    for c, y, x in ((0, 0, 0), (1, 3, 4), (2, 7, 5)):
        moved = images.clone()
        moved[:, c, y, x] += step * classifier.std[c, 0, 0]  # one unit of the normalised image is std of a pixel
        with torch.no_grad():
            losses = [F.cross_entropy(classifier(v), labels, reduction="none") for v in (images, moved)]
        inputs = classifier.normalise(images).requires_grad_()
        loss = F.cross_entropy(classifier.classify(classifier.encoder(inputs)), labels)
        (gradient,) = torch.autograd.grad(loss, inputs)
        torch.testing.assert_close(gradient[:, c, y, x], (losses[1] - losses[0]) / step / M, rtol=1e-2, atol=1e-6)
        torch.testing.assert_close(saliency[:, y, x], gradient[:, :, y, x].square().sum(1).sqrt())


def test_puzzlemix(classifier, batch):
    images, labels = batch
    classifier.eval()  # in training mode a forward pass moves the statistics that the saliency is measured with
    seen = set()
    for seed in range(6):
        method = METHODS["puzzlemix"](classifier, xi=0.01, seed=seed)
        replay = METHODS["puzzlemix"](classifier, seed=seed)
        partners, lam = draw_pairs(M, 1.0, generator=replay.cpu_generator)
        blocks = (2, 4, 8)[int(torch.randint(3, (), generator=clone(replay.cpu_generator)))]
        seen.add(blocks)
        saliency = saliency_map(classifier, images, labels)
        z = 1 - minimize_energy_exact(*replay.energy(images, saliency, partners, lam, blocks)).double() / 2
        own = transport(images, saliency, z > 0, 0.01)
        other = transport(images[partners], saliency[partners], z < 1, 0.01)
        mixed, targets, side = torch.empty_like(images), torch.zeros(M, C).double(), 8 // blocks
        for k, y, x in itertools.product(range(M), range(8), range(8)):
            share = z[k, y // side, x // side]
            mixed[k, :, y, x] = share * own[k, :, y, x] + (1 - share) * other[k, :, y, x]
            targets[k, labels[k]] += share / 64
            targets[k, labels[partners[k]]] += (1 - share) / 64
        expected = -(targets * classifier(mixed).log_softmax(1)).sum(1).mean()
        loss = method(images, labels)
        assert_same(loss, expected, classifier)
    assert len(seen) > 1


@pytest.mark.parametrize(("size", "expected"), [(6, {2}), (12, {2, 4}), (16, {2, 4, 8, 16})])
def test_masks_have_any_published_number_of_blocks_that_divides_the_side(classifier, monkeypatch, size, expected):
    monkeypatch.setattr("mmlib.experiments.methods.puzzlemix.saliency_map", lambda *_: torch.ones(2, size, size))
    method, seen = METHODS["puzzlemix"](classifier), []
    energy = method.energy
    monkeypatch.setattr(method, "energy", lambda *given: seen.append(given[-1]) or energy(*given))
    for _ in range(24):
        method.mix_batch(rand(2, 3, size, size).float(), torch.tensor([0, 1]))
    assert {*seen} == expected


def test_puzzlemix_with_all_of_one_image_is_erm(classifier, batch, monkeypatch):
    # With λ = 1 the prior forbids every share of the partner.
    monkeypatch.setattr(
        "mmlib.experiments.methods.puzzlemix.draw_pairs", lambda *_, **__: (torch.arange(M).roll(1), 1.0), raising=True
    )
    method = METHODS["puzzlemix"](classifier, eta=100.0)
    torch.testing.assert_close(method.mix_batch(*batch)[0], batch[0])
    assert_same(method(*batch), METHODS["erm"](classifier)(*batch), classifier)


def test_blocks_on_pixels():
    expected = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
    torch.testing.assert_close(upsample_blocks(torch.eye(2).unsqueeze(0), 4)[0], expected)
    torch.testing.assert_close(pool_saliency(torch.zeros(1, 4, 4), 2), torch.full((1, 2, 2), 0.25))


def grids_of_labels(h, w, count, strength, grids=60):
    borders = strength * rand(grids, count, count, seed=1)
    borders = (borders + borders.mT) * (1 - torch.eye(count))
    return rand(grids, count, h, w), borders


@pytest.mark.parametrize(("h", "w", "count"), [(2, 3, 4), (3, 2, 3), (1, 4, 5), (3, 1, 5)])
def test_move_is_the_best_of_all_expansions(h, w, count):
    costs, borders = grids_of_labels(h, w, count, 0.3)
    labels = torch.randint(count, (60, h, w), generator=torch.Generator().manual_seed(2))
    moved = comixup.expansion_move(costs, borders, labels)
    for k in range(60):
        every = puzzles.labelled_energy(costs[k], borders[k], puzzles.expansions(labels[k], count))
        torch.testing.assert_close(puzzles.labelled_energy(costs[k], borders[k], moved[k]), every.min())


@pytest.mark.parametrize("strength", [0.05, 0.2, 0.6])
@pytest.mark.parametrize(("h", "w", "images"), [(2, 3, 3), (4, 2, 2), (2, 2, 6)])
def test_moves_end_at_the_best_labelling_of_all_almost_always(h, w, images, strength):
    choices, _ = comixup.candidate_labels(rand(60, images))
    borders = strength / 2 * torch.cdist(choices, choices).square()
    of_images = rand(60, images, h, w)
    costs = torch.einsum("gln,gnyx->glyx", choices, of_images)
    every = puzzles.every_labelling(h, w, choices.shape[1])
    labels = comixup.minimize_energy_expansion(costs, borders)
    best, reached = (
        [puzzles.labelled_energy(c, b, x).min() for c, b, x in zip(costs, borders, candidates)]
        for candidates in ([every] * 60, labels)
    )
    excess = torch.stack(reached) - torch.stack(best)
    assert (excess < 1e-9).sum() >= 54  # of 60
    assert excess.mean() < 0.005  # a cost is 0.5 on average


def test_moves_end_with_one_that_changes_nothing_or_after_six(monkeypatch):
    costs, borders = grids_of_labels(2, 3, 4, 0.0)
    moves, move = [], comixup.expansion_move
    monkeypatch.setattr(comixup, "expansion_move", lambda *given: moves.append(given) or move(*given))
    labels = comixup.minimize_energy_expansion(costs, borders)
    torch.testing.assert_close(labels, costs.argmin(dim=1))
    assert len(moves) == 1
    monkeypatch.setattr(comixup, "is_on_cpu", lambda _: False)  # elsewhere it is not asked what a move has changed
    torch.testing.assert_close(comixup.minimize_energy_expansion(costs, borders), labels)
    assert len(moves) == 1 + 6


def test_halves_of_the_images_there_are():
    choices, offered = comixup.candidate_labels(torch.tensor([[4.0, 0.0, 7.0, 5.0], [0.0, 9.0, 0.0, 7.0]]))
    half = choices[:, 4:] * offered[:, 4:].unsqueeze(2)
    expected = [[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0], [0.5, 0, 0, 0.5]], [[0, 0.5, 0, 0.5], [0.0] * 4, [0.0] * 4]
    torch.testing.assert_close(half, torch.tensor(expected))
    torch.testing.assert_close(choices[1, :4], torch.eye(4))
    assert offered[:, :4].all()
    assert [comixup.candidate_labels(torch.ones(2, n))[0].shape[1] for n in (1, 2, 3)] == [1, 3, 6]


def test_compatibility_grows_with_the_distance_of_peaks():
    saliency = rand(2, 5, 12, 12) ** 8
    for part, a in zip(saliency, comixup.compatibility(saliency, 0.3)):
        distance = puzzles.distances_of_peaks(part, 3)
        torch.testing.assert_close(a, 0.7 * torch.eye(5).double() + 0.3 * 5 * distance / distance.sum())
    everywhere = comixup.compatibility(torch.ones(1, 5, 12, 12).double(), 0.3)
    torch.testing.assert_close(everywhere[0], 0.7 * torch.eye(5).double())


@pytest.mark.parametrize(("tau", "iterations"), [(0.0, 4), (0.5, 2), (0.83, 4)])
def test_shares_are_those_of_trying_all(classifier, monkeypatch, tau, iterations):
    monkeypatch.setattr(comixup, "BLOCKS", 2)
    monkeypatch.setattr(comixup, "ITERATIONS", iterations)
    method = METHODS["comixup"](classifier, tau=tau, gamma=0.1, eta=0.2, omega=0.1, seed=3)
    saliency = rand(2, 4, 8, 8, seed=5) ** 20
    replay = clone(method.generator)
    prior = sample_mixing_weights(2, 4, 2.0, generator=replay, dtype=torch.double)
    start = torch.randint(4, (2, 4, 2, 2), generator=replay)
    shares = method.shares(saliency)
    alike = comixup.compatibility(saliency, 0.1)
    for k in range(2):
        share = torch.stack([puzzles.pooled(s, 4) for s in saliency[k]])
        share = share / share.sum((1, 2), keepdim=True)
        expected = puzzles.comixup_shares(share, prior[k], start[k], alike[k], 0.32, 0.1, 0.2, tau, iterations)
        torch.testing.assert_close(shares[k], expected)
    assert (shares == 0.5).any()


def test_an_image_of_prior_zero_is_not_shown(classifier, monkeypatch):
    prior = torch.tensor([[0.0, 0.4, 0.0, 0.6]]).double()
    monkeypatch.setattr(comixup, "sample_mixing_weights", lambda *_, **__: prior)
    shares = METHODS["comixup"](classifier, gamma=0.0, eta=10.0).shares(rand(1, 4, 8, 8))
    assert (shares[..., [0, 2]] == 0).all()
    torch.testing.assert_close(shares[..., [1, 3]].sum(-1), torch.ones(1, 4, 4, 4).double())


def test_relabelling_lowers_the_papers_objective(classifier, monkeypatch):
    monkeypatch.setattr(comixup, "ITERATIONS", 1)  # with whole images only
    saliency = rand(3, 6, 16, 16, seed=5) ** 3
    method = METHODS["comixup"](classifier, tau=0.0, eta=0.0)
    replay = clone(method.generator)
    sample_mixing_weights(3, 6, 2.0, generator=replay, dtype=torch.double)
    start = F.one_hot(torch.randint(6, (3, 6, 4, 4), generator=replay), 6).double()
    alike, shares = comixup.compatibility(saliency, 0.001), method.shares(saliency)
    for k in range(3):
        share = pool_saliency(saliency[k], 4)
        before, after = (puzzles.comixup_objective(share, x[k], alike[k], 0.32, 1.0) for x in (start, shares))
        assert after < before


def test_mixtures_of_twenty_images_are_relabelled_four_times_in_blocks_of_a_quarter(classifier, monkeypatch):
    grids, minimise = [], comixup.minimize_energy_expansion
    monkeypatch.setattr(
        comixup, "minimize_energy_expansion", lambda *given: grids.append(given[0].shape) or minimise(*given)
    )
    METHODS["comixup"](classifier).mix_batch(rand(43, 3, 8, 8), torch.arange(43) % C, rand(43, 8, 8, seed=1) ** 20)
    assert [(g, h, w) for g, _, h, w in grids] == 4 * 20 * [(2, 4, 4)] + 4 * 3 * [(1, 4, 4)]


def test_comixup(classifier, batch, monkeypatch):
    monkeypatch.setattr(comixup, "GROUP_SIZE", 4)  # a part of four and one of two
    images, labels = batch
    classifier.eval()
    method = METHODS["comixup"](classifier, clean=0.7, seed=1)
    saliency = saliency_map(classifier, images, labels)
    replay = METHODS["comixup"](classifier, seed=1)
    y, mixed, targets = F.one_hot(labels, C).double(), [], []
    for first, n in ((0, 4), (4, 2)):
        shares = replay.shares(saliency[first : first + n].unsqueeze(0))[0]
        for k in range(n):
            image, target = torch.zeros(3, 8, 8).double(), torch.zeros(C).double()
            for i, v, u in itertools.product(range(n), range(8), range(8)):
                share = shares[k, v // 2, u // 2, i]
                image[:, v, u] += share * images[first + i, :, v, u]
                target += share * y[first + i] / 64
            mixed.append(image)
            targets.append(target)
    ours, of_ours = method.mix_batch(images, labels, saliency)
    torch.testing.assert_close(ours, torch.stack(mixed))
    torch.testing.assert_close(of_ours, torch.stack(targets))
    assert ((of_ours > 0).sum(1) > 1).any()
    method = METHODS["comixup"](classifier, clean=0.7, seed=1)
    of_mixed = -(torch.stack(targets) * classifier(torch.stack(mixed)).log_softmax(1)).sum(1).mean()
    expected = (of_mixed + 0.7 * F.cross_entropy(classifier(images), labels)) / 1.7
    assert_same(method(images, labels), expected, classifier)


def test_comixup_of_one_image_is_erm(classifier, batch):
    images, labels = batch[0][:1], batch[1][:1]
    classifier.eval()
    assert_same(METHODS["comixup"](classifier)(images, labels), METHODS["erm"](classifier)(images, labels), classifier)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("puzzlemix", {"alpha": 0}, "alpha must be"),
        ("puzzlemix", {"gamma": 1.5}, "gamma must be a number from 0 to 1, got 1.5"),
        ("puzzlemix", {"beta": -1}, "beta must be a finite number >= 0, got -1"),
        ("puzzlemix", {"eta": -1}, "eta must be"),
        ("puzzlemix", {"xi": float("inf")}, "xi must be"),
        ("comixup", {"alpha": 0}, "alpha must be"),
        ("comixup", {"omega": 2}, "omega must be"),
        ("comixup", {"tau": -0.5}, "tau must be"),
        ("comixup", {"clean": -1}, "clean must be"),
    ],
)
def test_impossible_options_are_named(classifier, name, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](classifier, **options)


@pytest.mark.parametrize(
    ("name", "takes"), [("puzzlemix", "an even number of pixels"), ("comixup", "a multiple of 4 pixels")]
)
def test_images_without_blocks_are_named(classifier, batch, name, takes):
    with pytest.raises(ValueError, match=f"{name} takes images whose side is {takes}, got 7"):
        METHODS[name](classifier)(batch[0][:, :, :7, :7], batch[1])
