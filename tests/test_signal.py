"""MultiMix with more of each example in its gradient, against literal formulas and against the derived signal."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmlib import sample_mixing_weights
from mmlib.experiments import data
from mmlib.experiments.methods import METHODS
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.trainer import train
from tests.helpers import C, M, N, assert_same, clone, expected_mixup, skip_coin
from tests.reference import mixtures

NAMES = ["multimix_amplified", "multimix_annealed", "multimix_around"]


def one_hot(labels):
    return F.one_hot(labels, C).double()


def weight_of_own_label(method, classifier, m=8):
    """-Σ G (y - ȳ) / Σ (y - ȳ)² of m times the logits' gradient G while all logits are equal."""
    torch.nn.init.zeros_(classifier.head.weight)
    images, labels = torch.rand(m, 1, 8, 8, dtype=torch.double), torch.arange(m) % C
    seen = []
    classifier.register_forward_hook(lambda *call: call[-1].register_hook(seen.append) and None)
    method.interpolate(images, labels).backward()
    own = one_hot(labels) - one_hot(labels).mean(0)
    return -m * float((seen[0] * own).sum() / own.square().sum())


@pytest.mark.parametrize(("alpha", "total"), [(0.5, False), (3.0, True), ((0.5, 2.0), False)])
def test_amplified_gradient_is_its_common_part_and_the_own_parts_scaled(classifier, batch, alpha, total):
    images, labels = batch
    options = {"num_mixtures": N, "alpha": alpha, "alpha_is_total": total, "probability": 1, "seed": 4}
    method = METHODS["multimix_amplified"](classifier, **options)
    pair = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    pair = tuple(a / M for a in pair) if total else pair
    weights = sample_mixing_weights(N, M, pair, generator=clone(method.generator), dtype=torch.double)
    logits = classifier(images)
    plain = mixtures.multimix(logits, lambda logit: logit, one_hot(labels), weights)
    (gradient,) = torch.autograd.grad(plain, logits, retain_graph=True)
    # Midpoint rule over α, instead of the integral.
    steps = [pair[0] + (pair[1] - pair[0]) * (k + 0.5) / 2000 for k in range(2000)]
    scale = 2000 / sum(1 / (1 + M * a) for a in steps)
    mean = sum(gradient) / M
    wanted = torch.stack([mean + scale * (row - mean) for row in gradient])
    loss = method(images, labels)
    torch.testing.assert_close(loss, plain)
    (seen,) = torch.autograd.grad(loss, classifier.head.bias, retain_graph=True)
    torch.testing.assert_close(seen, wanted.sum(0))  # what is common reaches the bias, unamplified
    seen = torch.autograd.grad(loss, classifier.head.weight)[0]
    torch.testing.assert_close(seen, wanted.T @ classifier.embed(images), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.2, 1.0, (0.5, 2.0)])
def test_amplified_own_label_weighs_what_it_does_without_mixing(classifier, alpha):
    method = METHODS["multimix_amplified"](classifier, num_mixtures=200_000, alpha=alpha, seed=1)
    assert weight_of_own_label(method, classifier) == pytest.approx(1, abs=0.02)
    plain = METHODS["multimix"](classifier, num_mixtures=200_000, alpha=alpha, seed=1)
    assert weight_of_own_label(plain, classifier) == pytest.approx(1 / method.amplification(8), abs=0.005)


@pytest.mark.parametrize("own", [0.3, (0.2, 0.9)])
def test_mixtures_around_one_example(classifier, batch, own):
    images, labels = batch
    method = METHODS["multimix_around"](
        classifier, anchor_weight=own, num_mixtures=2 * M + 1, alpha=0.7, probability=1, seed=4
    )
    generator = clone(method.generator)
    others = sample_mixing_weights(2 * M + 1, M, 0.7, generator=generator, dtype=torch.double)
    low, high = own if isinstance(own, tuple) else (own, own)
    shares = low + (high - low) * torch.rand(2 * M + 1, generator=generator, dtype=torch.double)
    rows = []
    for k, (share, row) in enumerate(zip(shares, others)):
        row = [(1 - share) * weight for weight in row]
        row[k % M] = row[k % M] + share
        rows.append(torch.stack(row))
    expected = mixtures.multimix(classifier.embed(images), classifier.head, one_hot(labels), torch.stack(rows))
    assert_same(method(images, labels), expected, classifier)


@pytest.mark.parametrize(("own", "square", "rest"), [(0.0, 0, 1), (0.6, 0.36, 0.16), ((0.5, 1.0), 7 / 12, 1 / 12)])
def test_own_label_of_mixtures_around_one_example(classifier, own, square, rest):
    """E w² + E (1 - w)² / (1 + mα)."""
    method = METHODS["multimix_around"](classifier, anchor_weight=own, num_mixtures=200_000, alpha=0.5, seed=1)
    assert weight_of_own_label(method, classifier) == pytest.approx(square + rest / 5, abs=0.01)


@pytest.mark.parametrize("factor", [0.01, 50.0])
def test_annealed_alpha_moves_geometrically_and_stays(classifier, batch, factor):
    images, labels = batch
    method = METHODS["multimix_annealed"](
        classifier, factor=factor, steps=4, num_mixtures=N, alpha=(0.5, 2.0), probability=1, seed=4
    )
    for step in range(6):
        scale = math.exp(math.log(factor) * min(step, 4) / 4)
        weights = sample_mixing_weights(
            N, M, (0.5 * scale, 2.0 * scale), generator=clone(method.generator), dtype=torch.double
        )
        expected = mixtures.multimix(classifier.embed(images), classifier.head, one_hot(labels), weights)
        assert_same(method(images, labels), expected, classifier)
        method.on_step_end()


def test_annealed_run_goes_on_where_it_stopped(tmp_path):
    digits = data.load("digits")
    config = Config(method="multimix_annealed", options={"steps": 6, "factor": 0.001}, epochs=3)
    whole = train(config, digits)
    with pytest.raises(TimeoutError):
        train(config, digits, folder=tmp_path, max_minutes=1e-9)  # after an epoch
    again = train(config, digits, folder=tmp_path)
    assert again.method.step == whole.method.step == 6
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]


@pytest.mark.parametrize("name", NAMES)
def test_input_mixup_on_the_other_mini_batches(classifier, batch, name):
    images, labels = batch
    method, before = (METHODS[name](classifier, probability=0, seed=3) for _ in range(2))
    skip_coin(before)
    assert_same(method(images, labels), expected_mixup(before, images, one_hot(labels), 1.0), classifier)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("multimix_annealed", {"factor": 0}, "factor must be a positive number, got 0"),
        ("multimix_annealed", {"steps": 0}, "steps must be an integer >= 1, got 0"),
        ("multimix_around", {"anchor_weight": 1.5}, "anchor_weight must be a number from 0 to 1, got 1.5"),
        (
            "multimix_around",
            {"anchor_weight": (0.9, 0.1)},
            r"anchor_weight must be a number or a pair \(low, high\) with low <= high, got \(0.9, 0.1\)",
        ),
    ],
)
def test_impossible_options_are_named(classifier, name, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](classifier, **options)
