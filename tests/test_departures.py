"""Where methods depart from released code on purpose: what theirs and what ours comes to, on the same numbers.

The formulas of the releases are those that the methods' docstrings name; no released code is needed or copied here.
"""

import math
import re
from pathlib import Path

import pytest
import torch

from mmlib.experiments.methods import METHODS, base
from tests.conftest import C, M
from tests.test_golden import network, scattered

PAGE = (Path(__file__).parents[1] / "book" / "api" / "methods-compared.md").read_text(encoding="utf-8")


@pytest.fixture
def given(monkeypatch):
    """Logits and targets of every cross-entropy that methods compute."""
    found, cross_entropy = [], base.F.cross_entropy

    def record(logits, targets):
        found.append((logits.softmax(dim=1).tolist(), targets.tolist()))
        return cross_entropy(logits, targets)

    monkeypatch.setattr(base.F, "cross_entropy", record)
    return found


def first_loss(name: str, **options: float) -> float:
    return METHODS[name](network(), seed=2, **options)(scattered(M, 1, 8, 8), torch.arange(M) % C).item()


@pytest.mark.parametrize(
    ("name", "options", "ours", "released"),
    [
        ("manifold_mixup", {}, 1.3837, 0.7833),
        ("puzzlemix", {}, 1.4417, 0.8169),
        ("comixup", {"clean": 0.0}, 1.5707, 0.8859),
    ],
)
def test_one_distribution_over_classes_where_releases_ask_yes_or_no_of_each(given, name, options, ours, released):
    """Cross-entropy of the softmax, where the release takes the mean over classes of its binary cross-entropy."""
    loss = first_loss(name, **options)
    entropies, binary = [], []
    for p_of_example, y_of_example in zip(*given[-1]):
        for p, y in zip(p_of_example, y_of_example):
            entropies.append(-y * math.log(p))
            binary.append(-y * math.log(p) - (1 - y) * math.log(1 - p))
    assert loss == pytest.approx(sum(entropies) / M, rel=1e-12)
    assert loss == pytest.approx(ours, abs=5e-5)
    assert sum(binary) / (M * C) == pytest.approx(released, abs=5e-5)


def test_comixups_own_images_count_as_much_as_its_mixtures(given):
    """A half of the loss; with the release's weights, 1.25 to 1.94, it would be 56 % to 66 % of it."""
    loss, mixtures, own = (first_loss("comixup", **options) for options in ({}, {"clean": 0.0}, {"clean": 1e12}))
    assert (loss, mixtures, own) == pytest.approx((1.4786, 1.5707, 1.3866), abs=5e-5)
    assert loss == pytest.approx((mixtures + own) / 2, rel=1e-12)
    for weight, share, released in ((1.25, 0.5556, 1.4684), (1.94, 0.6599, 1.4492)):
        assert weight / (1 + weight) == pytest.approx(share, abs=5e-5)
        assert first_loss("comixup", clean=weight) == pytest.approx(released, abs=5e-5)
        assert (1 - share) * mixtures + share * own == pytest.approx(released, abs=2e-4)


def test_the_page_names_the_tests_that_hold_its_departures():
    section = PAGE.split("## Where they depart")[1]
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", section)
    assert len(named) >= 7
    for file, test in named:
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")
