"""The methods MultiMix is compared with, against literal formulas and libraries, their draws replayed."""

import inspect

import ot
import pytest
import torch
import torch.nn.functional as F

from mmlib import sample_mixing_weights
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.alignmixup import sinkhorn, squared_distances
from mmlib.experiments.methods.manifold_mixup import split_encoder
from mmlib.transforms import zeta_weights
from tests.helpers import C, M, assert_same, clone
from tests.reference import mixtures, pairs


def replay_pairs(host, alpha):
    lam = sample_mixing_weights(1, 2, alpha, generator=host, dtype=torch.double)[0, 0].item()
    return torch.randperm(M, generator=host).tolist(), lam


def expected_loss(logits, labels, partners, lam):
    """Mean of λ H(y, p) + (1 - λ) H(y', p)."""
    y = F.one_hot(labels, C).double()
    losses = [
        lam * mixtures.cross_entropy(row, y[i]) + (1 - lam) * mixtures.cross_entropy(row, y[j])
        for i, (j, row) in enumerate(zip(partners, logits))
    ]
    return sum(losses) / M


@pytest.mark.parametrize("seed", range(8))
def test_cutmix(classifier, batch, seed):
    images, labels = batch
    method = METHODS["cutmix"](classifier, alpha=0.7, probability=1, seed=seed)
    host = clone(method.cpu_generator)
    torch.rand((), generator=host)
    partners, lam = replay_pairs(host, 0.7)
    centre = torch.randint(8, (2,), generator=host).tolist()
    mixed, kept = zip(*(pairs.cut(images[i], images[j], lam, centre) for i, j in enumerate(partners)))
    expected = expected_loss(classifier(torch.stack(mixed)), labels, partners, kept[0])
    assert_same(method(images, labels), expected, classifier)


def test_cutmix_leaves_the_other_mini_batches_as_they_are(classifier, batch):
    images, labels = batch
    method = METHODS["cutmix"](classifier, probability=0)
    assert_same(method(images, labels), F.cross_entropy(classifier(images), labels), classifier)
    method = METHODS["cutmix"](classifier)
    chances = [method.flip_coin(method.probability) for _ in range(2000)]
    assert abs(sum(chances) / 2000 - 0.5) < 0.04  # 3.6 standard deviations


def test_images_of_the_mini_batch_are_left_alone(classifier, batch):
    before = batch[0].clone()
    for name in METHODS:
        METHODS[name](classifier)(*batch)
    torch.testing.assert_close(batch[0], before, rtol=0, atol=0)


def test_manifold_mixup_mixes_at_every_layer_alike_often(classifier, batch):
    images, labels = batch
    encoder, seen = classifier.encoder, []
    for seed in range(40):
        method = METHODS["manifold_mixup"](classifier, alpha=1.5, seed=seed)
        host = clone(method.cpu_generator)
        stage = int(torch.randint(3, (), generator=host))
        seen.append(stage)
        if seen.count(stage) > 2:
            continue
        partners, lam = replay_pairs(host, 1.5)
        hidden = images if stage == 0 else encoder[0]((images - 0.4) / 0.2)
        for k in range(stage):
            hidden = encoder[1 + k](hidden)
        hidden = torch.stack([lam * hidden[i] + (1 - lam) * hidden[j] for i, j in enumerate(partners)])
        hidden = encoder[0]((hidden - 0.4) / 0.2) if stage == 0 else hidden
        for k in range(stage, 2):
            hidden = encoder[1 + k](hidden)
        expected = expected_loss(classifier.head(hidden.mean((2, 3))), labels, partners, lam)
        assert_same(method(images, labels), expected, classifier)
    assert {k: seen.count(k) >= 6 for k in range(3)} == dict.fromkeys(range(3), True)


def test_manifold_mixup_of_inputs_alone_is_mixup(classifier, batch):
    method = METHODS["manifold_mixup"](classifier, stages=0, seed=2)
    torch.randint(1, (), generator=method.cpu_generator)
    mixup = METHODS["mixup"](classifier, alpha=2.0, seed=2)
    mixup.cpu_generator.set_state(method.cpu_generator.get_state())
    method = METHODS["manifold_mixup"](classifier, stages=0, seed=2)
    assert_same(method(*batch), mixup(*batch), classifier)


@pytest.mark.parametrize(("stage", "modules"), [(0, 0), (1, 2), (2, 3)])
def test_encoders_are_split_before_the_stem_or_after_a_stage(classifier, stage, modules):
    before, after = split_encoder(classifier.encoder, stage)
    assert [*before] == [*classifier.encoder][:modules]
    assert [*before, *after] == [*classifier.encoder]


def test_manifold_mixup_names_a_stage_that_is_not_there(classifier, batch):
    with pytest.raises(ValueError, match="stage must be from 0 to 2 for this encoder, got 3"):
        METHODS["manifold_mixup"](classifier, stages=3)(*batch)


def plans_and_costs(scale, r=5, s=4):
    costs = scale * torch.rand(3, r, s, generator=torch.Generator().manual_seed(7), dtype=torch.double)
    return costs, lambda **options: sinkhorn(costs, **options)


def test_defaults_of_sinkhorn_are_those_of_the_released_code():
    parameters = inspect.signature(sinkhorn).parameters
    defaults = {name: parameters[name].default for name in ("epsilon", "iterations", "tolerance")}
    assert defaults == {"epsilon": 0.1, "iterations": 100, "tolerance": 0.1}


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sinkhorn_converges_to_the_plan_of_pot(scale):
    costs, plans = plans_and_costs(scale)
    a, b = torch.full((5,), 0.2).double(), torch.full((4,), 0.25).double()
    for cost, plan in zip(costs, plans(iterations=4000, tolerance=1e-14)):
        expected = ot.sinkhorn(a, b, cost, 0.1, method="sinkhorn_log", numItermax=5000, stopThr=0, warn=False)
        torch.testing.assert_close(plan, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("tolerance", [3.0, 0.1, 0.01, 1e-3, 0.0])
def test_sinkhorn_stops_all_problems_together(tolerance):
    costs, plans = plans_and_costs(3.0)
    expected, iterations = pairs.sinkhorn(costs, 0.1, 50, tolerance)
    assert (iterations == 50) == (tolerance == 0)
    torch.testing.assert_close(plans(iterations=50, tolerance=tolerance), expected)
    if 1 < iterations < 50:  # one iteration less is another plan
        assert (plans(iterations=iterations - 1, tolerance=0.0) - expected).abs().max() > 1e-6


@pytest.mark.parametrize("tolerance", [3.0, 0.1, 1e-3, 0.0])
def test_sinkhorn_computes_no_iteration_in_vain_on_the_cpu(monkeypatch, tolerance):
    costs, plans = plans_and_costs(3.0)
    _, iterations = pairs.sinkhorn(costs, 0.1, 50, tolerance)
    calls, log_softmax = [], torch.Tensor.log_softmax
    monkeypatch.setattr(torch.Tensor, "log_softmax", lambda *a, **k: calls.append(k["dim"]) or log_softmax(*a, **k))
    plans(iterations=50, tolerance=tolerance)
    assert calls == [2, 1] * iterations


def test_sinkhorn_of_large_costs_in_single_precision_is_finite():
    plan = sinkhorn(1e4 * torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(plan.sum(1), torch.full((2, 16), 1 / 16), rtol=1e-2, atol=0)


def test_distances_of_close_positions_do_not_cancel():
    a = 100 + torch.rand(2, 512, 30, generator=torch.Generator().manual_seed(0))
    expected = (a.double().unsqueeze(3) - a.double().flip(2).unsqueeze(2)).square().sum(1)
    torch.testing.assert_close(squared_distances(a, a.flip(2)).double(), expected, rtol=1e-5, atol=1e-12)


def test_alignmixup(classifier, batch):
    images, labels = batch
    directions = set()
    for seed in range(5):
        method = METHODS["alignmixup"](classifier, alpha=1.5, probability=1, seed=seed)
        host = clone(method.cpu_generator)
        torch.rand((), generator=host)
        partners, lam = replay_pairs(host, 1.5)
        transport_features = torch.rand((), generator=host).item() < 0.5
        directions.add(transport_features)
        features = classifier.features(images).flatten(2)
        detached = features.detach()
        costs = (detached.unsqueeze(3) - detached[partners].unsqueeze(2)).square().sum(1)
        plans, _ = pairs.sinkhorn(costs, 0.1, 100, 0.1)
        mixed = pairs.align(features, features[partners], plans, lam, transport_features)
        expected = expected_loss(classifier.head(mixed.mean(2)), labels, partners, lam)
        assert_same(method(images, labels), expected, classifier)
    assert directions == {True, False}


def test_alignmixup_of_inputs_on_the_other_mini_batches_is_mixup(classifier, batch):
    method = METHODS["alignmixup"](classifier, probability=0, seed=2)
    mixup = METHODS["mixup"](classifier, alpha=2.0, seed=2)
    torch.rand((), generator=mixup.cpu_generator)
    assert_same(method(*batch), mixup(*batch), classifier)


def test_zeta_mixup(classifier, batch):
    images, labels = batch
    method = METHODS["zeta_mixup"](classifier, gamma=2.0, seed=3)
    weights = zeta_weights(M, 2.0, generator=clone(method.generator), dtype=torch.double)
    mixed = torch.stack([mixtures.mixture(row, images) for row in weights])
    targets = [mixtures.mixture(row, F.one_hot(labels, C).double()) for row in weights]
    losses = [mixtures.cross_entropy(row, target) for row, target in zip(classifier(mixed), targets)]
    assert_same(method(images, labels), sum(losses) / M, classifier)


def test_zeta_mixups_targets_sum_to_one_in_mixed_precision(classifier, batch):
    method = METHODS["zeta_mixup"](classifier.float(), seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        _, targets = method.mix_batch(batch[0].float(), batch[1])
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(M))


def test_zeta_mixup_mixes_images_of_double_precision_in_it(classifier):
    images = torch.full((M, 1, 8, 8), 1 / 3, dtype=torch.double)
    mixed, targets = METHODS["zeta_mixup"](classifier, gamma=1.0).mix_batch(images, torch.arange(M) % C)
    torch.testing.assert_close(mixed, images, rtol=1e-14, atol=0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(M).double(), rtol=1e-14, atol=0)


def test_zeta_mixup_of_one_example_each_is_erm(classifier, batch):
    assert_same(METHODS["zeta_mixup"](classifier, gamma=100)(*batch), METHODS["erm"](classifier)(*batch), classifier)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cutmix", {"alpha": 0}, "alpha must be"),
        ("cutmix", {"probability": 1.5}, "probability must be a number from 0 to 1, got 1.5"),
        ("manifold_mixup", {"alpha": -1.0}, "alpha must be"),
        ("manifold_mixup", {"stages": -1}, "stages must be an integer >= 0, got -1"),
        ("zeta_mixup", {"gamma": -1}, "gamma must be"),
        ("alignmixup", {"alpha": -1.0}, "alpha must be"),
        ("alignmixup", {"probability": -1}, "probability must be"),
    ],
)
def test_impossible_options_are_named(classifier, name, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](classifier, **options)
