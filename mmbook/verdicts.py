"""Verdicts on claims: paired differences over seeds, their intervals, and what they allow us to say.

Runs of one seed share the split, the initial weights and the order of the data, so two methods are compared seed by
seed. A verdict rests on the interval of the mean difference, after Holm's correction for the number of claims.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from mmlib._checks import nearest

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 9999
SATURATED = 95.0  # percent: an error at which every method fails tells them apart no more
MIN_SEEDS = 3  # of two, chance alone often makes the differences equal

HOLDS, FAILS, OPEN, UNTESTABLE = "holds", "does not hold", "open", "not testable here"

# The papers' claims by title: the metric that tests each, and 1 where higher is better, -1 where lower.
CLAIMS = {
    "classification: accuracy (%)": ("accuracy", 1),
    "robustness: error, FGSM (%)": ("fgsm_error", -1),
    "robustness: error, PGD (%)": ("pgd_error", -1),
    "out of distribution: AUROC (%)": ("ood_auroc", 1),
    "tight classes: alignment": ("alignment", -1),
    "spread: uniformity": ("uniformity", -1),
}


@dataclass(frozen=True)
class Comparison:
    """The paired comparison of a method with another over the seeds that both have.

    Args:
        differences: method less other, one a seed; the sign is turned where lower is better, so that positive favours
            the method.

    >>> comparison = Comparison(np.array([1.0, 2.0, 3.0]))
    >>> round(comparison.mean, 2), [round(float(end), 2) for end in comparison.t_interval()]
    (2.0, [-0.48, 4.48])
    """

    differences: np.ndarray

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.differences)

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(self.differences.mean())

    @property
    def ahead(self) -> int:
        """Number of seeds on which the method is ahead."""
        return int((self.differences > 0).sum())

    @property
    def p_value(self) -> float:
        """Two-sided p of Student's paired t-test; NaN for fewer than two seeds, 1 where all differences are zero.

        It is NaN too where they are all equal: a metric in coarse steps, such as an error on a hundred images, then
        hides their spread.
        """
        if self.seeds and not self.differences.any():
            return 1.0
        if self._spread_is_unknown():
            return float("nan")
        return float(stats.ttest_1samp(self.differences, 0).pvalue)

    def t_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Student's interval of the mean difference; NaN for fewer than two seeds or equal differences."""
        if self._spread_is_unknown():
            return float("nan"), float("nan")
        interval = stats.ttest_1samp(self.differences, 0).confidence_interval(level)
        return float(interval.low), float(interval.high)

    def bootstrap_interval(self, level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap interval of the mean difference; it assumes no normality, but few seeds narrow it."""
        if self._spread_is_unknown():
            return float("nan"), float("nan")
        interval = stats.bootstrap(
            (self.differences,),
            np.mean,
            confidence_level=level,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        return float(interval.low), float(interval.high)

    def smallest_detectable(self, level: float = LEVEL, power: float = POWER) -> float:
        """The mean difference that a t-test of so many seeds and this spread shows with the given power."""
        if self._spread_is_unknown():
            return float("nan")
        effect = TTestPower().solve_power(nobs=self.seeds, alpha=1 - level, power=power, alternative="two-sided")
        return float(np.squeeze(effect) * self.differences.std(ddof=1))

    def _spread_is_unknown(self) -> bool:
        return self.seeds < 2 or float(np.ptp(self.differences)) == 0


def compare(numbers: pd.DataFrame, method: str, other: str, metric: str, sign: int = 1) -> Comparison:
    """Compare two variants over the seeds that both have.

    Args:
        numbers: one row a run, with the columns `variant`, `seed` and `metric`.
        sign: 1 where a higher metric is better, -1 where a lower one is.

    Raises:
        ValueError: a variant without a run.
    """
    wide = numbers.pivot(index="seed", columns="variant", values=metric)
    for name in (method, other):
        if name not in wide:
            raise ValueError(f"variant must be one of {', '.join(wide)}, got {name!r}{nearest(name, wide)}")
    return Comparison(sign * (wide[method] - wide[other]).dropna().to_numpy())


def best_by_validation(numbers: pd.DataFrame, candidates: list[str]) -> str:
    """Choose the candidate with the highest mean validation accuracy; the test set takes no part in the choice.

    Only `with_enough_seeds` take part. The mean is over the seeds that all of these have, so that none wins by an easy
    split.

    Raises:
        ValueError: no candidate has a run.
    """
    chosen = with_enough_seeds(numbers, candidates)
    wide = numbers[numbers["variant"].isin(chosen)].pivot(index="seed", columns="variant", values="validation_accuracy")
    shared = wide.dropna()
    return str((shared if len(shared) else wide).mean().idxmax())


def with_enough_seeds(numbers: pd.DataFrame, candidates: list[str]) -> list[str]:
    """Keep the candidates with half as many seeds as the one with most, and with `MIN_SEEDS` where one has as many.

    Raises:
        ValueError: no candidate has a run.
    """
    counts = numbers.groupby("variant")["seed"].nunique().reindex(candidates).dropna()
    if counts.empty:
        raise ValueError(f"candidates must hold a variant with runs, got {candidates}")
    return list(counts.index[counts >= max(counts.max() / 2, min(MIN_SEEDS, counts.max()))])


def summarize(numbers: pd.DataFrame, metric: str, baseline: str = "mixup") -> pd.DataFrame:
    """Summarize a metric for each variant, in the order of the rows, beside a baseline.

    Returns:
        One row a variant. It holds `seeds`, `mean`, `std`, and the paired `difference` to the baseline with the ends
        of its interval, `low` and `high`. These three are NaN for the baseline and without runs of it.
    """
    rows = {}
    for variant, here in numbers.dropna(subset=metric).groupby("variant", sort=False):
        row = {"seeds": len(here), "mean": here[metric].mean(), "std": here[metric].std()}
        pairs = Comparison(np.array([]))
        if variant != baseline and baseline in set(numbers["variant"]):
            pairs = compare(numbers, str(variant), baseline, metric)
        low, high = pairs.t_interval()
        rows[variant] = row | {"difference": pairs.mean if pairs.seeds else float("nan"), "low": low, "high": high}
    return pd.DataFrame.from_dict(rows, orient="index")


def judge(
    numbers: pd.DataFrame, methods: list[str], against: str, claims: Mapping[str, tuple[str, int]] = CLAIMS
) -> pd.DataFrame:
    """Judge the claims about some methods, held against one other, as one family: `verdicts` by claim and method.

    Args:
        numbers: the runs of one regime, with the metrics of the claims as columns.
        methods: variants that the claims are about; those without a run are left out.
        against: the variant that they are held against.
        claims: the metric and its sign, by the claim's title.
    """
    known = [method for method in methods if method in set(numbers["variant"])]
    family = {
        (title, method): compare(numbers, method, against, metric, sign)
        for title, (metric, sign) in claims.items()
        for method in known
    }
    full = [title for title, (metric, sign) in claims.items() if sign < 0 and is_saturated(numbers, metric)]
    return verdicts(family, frozenset(key for key in family if key[0] in full))


def verdicts(comparisons: dict, saturated: frozenset = frozenset(), level: float = LEVEL) -> pd.DataFrame:
    """A row for every claim: the difference, its intervals, Holm's p and the verdict.

    A claim *holds* or *does not hold* where Holm's corrected p lies below 1 - `level`, by the sign of the difference.
    Else it is *open*, and the smallest difference that the seeds could have shown says how open. A claim with fewer
    than `MIN_SEEDS` seeds is open and leaves the family.

    Args:
        comparisons: the family of claims, by any key; the correction is for all of them together.
        saturated: keys whose metric cannot tell methods apart, which leave the family.
    """
    p_values = {key: c.p_value for key, c in comparisons.items() if key not in saturated and c.seeds >= MIN_SEEDS}
    tested = {key: p for key, p in p_values.items() if not math.isnan(p)}
    corrected = {}
    if tested:
        corrected = dict(zip(tested, multipletests(list(tested.values()), alpha=1 - level, method="holm")[1]))
    rows = {}
    for key, comparison in comparisons.items():
        p = corrected.get(key, float("nan"))
        low, high = comparison.t_interval(level)
        bootstrap_low, bootstrap_high = comparison.bootstrap_interval(level)
        rows[key] = {
            "seeds": comparison.seeds,
            "difference": comparison.mean if comparison.seeds else float("nan"),
            "low": low,
            "high": high,
            "bootstrap_low": bootstrap_low,
            "bootstrap_high": bootstrap_high,
            "ahead": comparison.ahead,
            "p_holm": p,
            "detectable": comparison.smallest_detectable(level),
            "verdict": UNTESTABLE if key in saturated else _verdict(comparison, p, level),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _verdict(comparison: Comparison, p: float, level: float) -> str:
    if not p < 1 - level:
        return OPEN
    return HOLDS if comparison.mean > 0 else FAILS


def is_saturated(numbers: pd.DataFrame, metric: str, limit: float = SATURATED) -> bool:
    """Whether a metric, an error in percent, lies at `limit` or above for every run: then it tells nothing apart."""
    return bool((numbers[metric] >= limit).all())
