"""Verdicts against textbook formulas, and against simulated seeds whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mmbook.verdicts import (
    FAILS,
    HOLDS,
    OPEN,
    UNTESTABLE,
    Comparison,
    best_by_validation,
    compare,
    is_saturated,
    judge,
    summarize,
    verdicts,
)

DIFFERENCES = np.array([1.15, 1.03, 0.80, 1.15, -0.11])


def test_t_interval_is_the_textbook_formula():
    n, mean, sd = len(DIFFERENCES), DIFFERENCES.mean(), DIFFERENCES.std(ddof=1)
    half = stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n)
    assert Comparison(DIFFERENCES).t_interval() == pytest.approx((mean - half, mean + half))
    t = mean / (sd / math.sqrt(n))
    assert Comparison(DIFFERENCES).p_value == pytest.approx(2 * stats.t.sf(abs(t), n - 1))


def test_bootstrap_interval_covers_the_mean_and_is_the_same_every_time():
    low, high = Comparison(DIFFERENCES).bootstrap_interval()
    assert DIFFERENCES.min() < low < DIFFERENCES.mean() < high < DIFFERENCES.max()
    assert Comparison(DIFFERENCES).bootstrap_interval() == (low, high)
    wide = Comparison(DIFFERENCES).bootstrap_interval(level=0.99)
    assert wide[0] <= low <= high <= wide[1]


def test_smallest_detectable_difference_is_detected_with_its_power():
    rng = np.random.default_rng(0)
    unit = rng.standard_normal(5)
    unit = (unit - unit.mean()) / unit.std(ddof=1)
    effect = Comparison(unit).smallest_detectable()
    p_values = stats.ttest_1samp(rng.normal(effect, 1, (20_000, 5)), 0, axis=1).pvalue
    assert (p_values < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    samples = rng.normal(0.3, 1, (2000, 6))
    covered = [low <= 0.3 <= high for low, high in (Comparison(s).t_interval() for s in samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_holms_correction_by_hand():
    # p of 0.01, 0.02, 0.03: times 3, 2 and 1, and never falling.
    def of(p: float, n: int = 6) -> Comparison:
        base = np.linspace(-1, 1, n)
        t = stats.t.isf(p / 2, n - 1)
        return Comparison(base + t * base.std(ddof=1) / math.sqrt(n))

    table = verdicts({"a": of(0.03), "b": of(0.01), "c": of(0.02)})
    assert table["p_holm"].tolist() == pytest.approx([0.04, 0.03, 0.04])
    assert table["verdict"].tolist() == [HOLDS, HOLDS, HOLDS]
    table = verdicts({"a": of(0.03), "b": of(0.01), "c": of(0.02), "d": of(0.5)})
    assert table["p_holm"].tolist() == pytest.approx([0.06, 0.04, 0.06, 0.5])
    assert table["verdict"].tolist() == [OPEN, HOLDS, OPEN, OPEN]


def test_verdicts_by_sign_number_and_saturation():
    ahead, one = Comparison(np.array([1.0, 1.1, 0.9, 1.0])), Comparison(np.array([1.0]))
    table = verdicts(
        {"ahead": ahead, "behind": Comparison(-ahead.differences), "one": one, "full": ahead}, frozenset({"full"})
    )
    assert table["verdict"].to_dict() == {"ahead": HOLDS, "behind": FAILS, "one": OPEN, "full": UNTESTABLE}
    assert math.isnan(table.loc["one", "low"])
    assert math.isnan(table.loc["full", "p_holm"])
    assert table.loc["behind", "ahead"] == 0


def test_equal_differences_hide_their_spread():
    """On a hundred images, three differences of two points each prove nothing: they are steps of one point."""
    assert Comparison(np.zeros(3)).p_value == 1.0
    equal = Comparison(np.full(3, 2.0))
    assert np.isnan(
        [equal.p_value, *equal.t_interval(), *equal.bootstrap_interval(), equal.smallest_detectable()]
    ).all()
    assert verdicts({"equal": equal})["verdict"].tolist() == [OPEN]


def test_two_seeds_are_too_few_and_leave_the_family():
    nearly_equal, clear = Comparison(np.array([2.0, 2.0001])), Comparison(np.array([2.0, 2.1, 1.9]))
    table = verdicts({"two": nearly_equal, "three": clear})
    assert nearly_equal.p_value < 0.001
    assert table["verdict"].tolist() == [OPEN, HOLDS]
    assert table.loc["three", "p_holm"] == pytest.approx(clear.p_value)


def runs() -> pd.DataFrame:
    rows = [
        ("mixup", 0, 90.0, 80.0, 0.5),
        ("mixup", 1, 91.0, 82.0, 0.6),
        ("cutmix", 0, 95.0, 79.0, 0.4),
        ("cutmix", 1, 95.0, 79.0, 0.4),
        ("ours", 1, 93.0, 84.0, 0.3),
        ("ours", 2, 99.0, 99.0, 0.1),
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "accuracy", "validation_accuracy", "alignment"])


def test_seeds_are_paired():
    assert compare(runs(), "ours", "mixup", "accuracy").differences.tolist() == [2.0]
    assert compare(runs(), "ours", "mixup", "alignment", sign=-1).differences.tolist() == pytest.approx([0.3])
    with pytest.raises(ValueError, match="variant must be one of cutmix, mixup, ours, got 'erm'"):
        compare(runs(), "ours", "erm", "accuracy")


def test_the_best_other_is_chosen_by_validation_and_not_by_test():
    assert best_by_validation(runs(), ["mixup", "cutmix"]) == "mixup"
    with pytest.raises(ValueError, match="candidates must hold a variant with runs"):
        best_by_validation(runs(), ["erm"])


def test_the_choice_is_made_on_the_seeds_that_all_candidates_have():
    unpaired = pd.concat([runs(), runs()[:2].assign(variant="late", seed=[1, 2], validation_accuracy=[81.0, 99.0])])
    assert best_by_validation(unpaired, ["mixup", "late"]) == "mixup"
    # A candidate with a third of the seeds takes no part, however good.
    more = pd.concat([runs(), runs()[:1].assign(seed=2), runs()[:1].assign(variant="single", validation_accuracy=99.0)])
    assert best_by_validation(more, ["mixup", "single"]) == "mixup"
    assert best_by_validation(more, ["single"]) == "single"
    # Nor does one of two seeds where another has three, with which a verdict is possible.
    pair = pd.concat([more, runs()[:2].assign(variant="pair", validation_accuracy=99.0)])
    assert best_by_validation(pair, ["mixup", "pair"]) == "mixup"


def test_summary_pairs_seeds_and_does_without_the_baseline():
    summary = summarize(runs(), "accuracy", "mixup")
    assert list(summary.index) == ["mixup", "cutmix", "ours"]
    assert summary.loc["cutmix", ["seeds", "mean", "std", "difference"]].tolist() == [2, 95.0, 0.0, 4.5]
    low, high = Comparison(np.array([5.0, 4.0])).t_interval()
    assert summary.loc["cutmix", ["low", "high"]].tolist() == pytest.approx([low, high])
    assert summary.loc["ours", "difference"] == 2.0
    assert math.isnan(summary.loc["mixup", "difference"])
    assert summarize(runs(), "accuracy", "erm")["difference"].isna().all()


def test_a_family_is_corrected_together_and_leaves_out_what_tells_nothing():
    rng = np.random.default_rng(0)
    rows = [
        {
            "variant": v,
            "seed": s,
            "accuracy": 90 + shift + rng.normal(0, 0.1),
            "pgd_error": 99.0,
            "alignment": 1 - shift,
        }
        for v, shift in (("mixup", 0.0), ("ours", 3.0))
        for s in range(4)
    ]
    numbers = pd.DataFrame(rows)
    numbers["alignment"] += rng.normal(0, 0.01, len(numbers))
    claims = {"accuracy": ("accuracy", 1), "robustness": ("pgd_error", -1), "alignment": ("alignment", -1)}
    table = judge(numbers, ["ours", "absent"], "mixup", claims)
    assert list(table.index) == [(title, "ours") for title in claims]
    assert table["verdict"].tolist() == [HOLDS, UNTESTABLE, HOLDS]
    assert (table["difference"].iloc[[0, 2]] > 2).all()
    p = [
        compare(numbers, "ours", "mixup", metric, sign).p_value
        for metric, sign in (claims["accuracy"], claims["alignment"])
    ]
    assert max(table["p_holm"].dropna()) == pytest.approx(max(2 * min(p), max(p)))


def test_errors_near_one_hundred_are_saturated():
    numbers = pd.DataFrame({"pgd_error": [99.0, 95.0], "fgsm_error": [99.0, 60.0]})
    assert is_saturated(numbers, "pgd_error")
    assert not is_saturated(numbers, "fgsm_error")
