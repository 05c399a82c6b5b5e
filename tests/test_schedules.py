"""Schedules: the own-label weight against simulated gradients, differences and predictions by hand."""

import numpy as np
import pandas as pd
import pytest

from mmbook.schedules import accuracies, differences, own_label_weight, predicted_differences


@pytest.mark.parametrize(("alpha", "m"), [((0.5, 2.0), 50), ((1.0, 1.0), 2), ((0.01, 0.04), 50)])
def test_own_label_weight_is_that_of_a_mean_gradient(alpha, m):
    """With uniform predictions, -E[dL/dl_i] = (y_i + mα ȳ) / (m (1 + mα)) - p / m: own label against the others'."""
    rng = np.random.default_rng(0)
    n = 100_000
    concentration = rng.uniform(*alpha, n)
    gammas = rng.standard_gamma(np.tile(concentration[:, None], (1, m)) + 1) * rng.uniform(size=(n, m)) ** (
        1 / concentration[:, None]
    )
    weights = gammas / gammas.sum(1, keepdims=True)
    # E[λ_i λ_i] - E[λ_i λ_j] is what an example's label weighs in its gradient above any other's, over E[λ_i] = 1/m.
    own, other = (weights[:, 0] ** 2).mean(), (weights[:, 0] * weights[:, 1]).mean()
    assert m * (own - other) == pytest.approx(own_label_weight(*alpha, m), rel=0.05)


def runs() -> pd.DataFrame:
    mixup = {100: (50.0, 54.0), 1000: (80.0, 84.0), 10000: (90.0, 94.0)}
    ours = {100: (40.0, 43.0), 1000: (80.0, 85.0)}
    rows = [("mixup", seed, steps, x) for steps, of in mixup.items() for seed, x in enumerate(of)]
    rows += [("ours", seed, steps, x) for steps, of in ours.items() for seed, x in enumerate(of)]
    return pd.DataFrame(rows, columns=["variant", "seed", "steps", "accuracy"])


def test_differences_are_taken_seed_by_seed():
    table = differences(runs()).set_index("steps")
    assert table["difference"].to_dict() == {100: -10.5, 1000: 0.5}
    assert table["seeds"].tolist() == [2, 2]
    assert (table["low"] < table["difference"]).all()
    assert (table["high"] > table["difference"]).all()


def test_accuracies_are_means_with_students_interval():
    table = accuracies(
        pd.concat([runs(), runs().query("variant == 'ours' and seed == 0").assign(variant="once")])
    ).set_index(["variant", "steps"])
    assert table.loc[("ours", 1000), ["accuracy", "seeds"]].tolist() == [82.5, 2]
    half = 12.706 * np.std([80.0, 85.0], ddof=1) / 2**0.5  # of two seeds, t with one degree of freedom
    assert table.loc[("ours", 1000), ["low", "high"]].tolist() == pytest.approx([82.5 - half, 82.5 + half], rel=1e-4)
    assert table.loc[("once", 100), ["low", "high"]].isna().all()


def test_prediction_is_the_baselines_curve_shifted():
    # A tenth of the gradient: at 1,000 steps what mixup has at 100, at 10,000 what it has at 1,000.
    table = predicted_differences(runs(), 0.1).set_index("steps")["difference"]
    assert table.to_dict() == pytest.approx({1000: 52.0 - 82.0, 10000: 82.0 - 92.0})
    halfway = predicted_differences(runs(), 10**-0.5).set_index("steps")["difference"]
    assert halfway[1000] == pytest.approx((52.0 + 82.0) / 2 - 82.0)
    assert predicted_differences(runs(), 1.0)["difference"].abs().max() < 1e-9
