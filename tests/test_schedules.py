"""Schedules: the own-label weight against simulated gradients, differences and predictions by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from mmbook import grids
from mmbook.names import printed_name, style_of
from mmbook.schedules import (
    GRIDS,
    accuracies,
    at_other_lengths,
    crossing,
    differences,
    draw_differences,
    draw_theory,
    lead,
    lengthened,
    lengths,
    own_label_weight,
    own_label_weights,
    predicted_differences,
    scheduled_records,
    scheduled_runs,
    sentence,
    standing,
)


@pytest.mark.parametrize(
    ("alpha", "m", "mixed"),
    [((0.5, 2.0), 50, 50), ((1.0, 1.0), 2, 2), ((0.01, 0.04), 50, 50), ((1.0, 1.0), 10, 2), ((0.5, 2.0), 10, 4)],
)
def test_own_label_weight_is_that_of_a_mean_gradient(alpha, m, mixed):
    """With uniform predictions, -E[dL/dl_i] = (y_i + mα ȳ) / (m (1 + mα)) - p / m: own label against the others'."""
    rng = np.random.default_rng(0)
    n = 100_000
    concentration = rng.uniform(*alpha, n)
    gammas = rng.standard_gamma(np.tile(concentration[:, None], (1, m)) + 1) * rng.uniform(size=(n, m)) ** (
        1 / concentration[:, None]
    )
    left_out = rng.permuted(np.tile(np.arange(m) >= mixed, (n, 1)), axis=1)
    weights = np.where(left_out, 0, gammas)
    weights = weights / weights.sum(1, keepdims=True)
    # E[λ_i λ_i] - E[λ_i λ_j] is what an example's label weighs in its gradient above any other's, over E[λ_i] = 1/m.
    own, other = (weights[:, 0] ** 2).mean(), (weights[:, 0] * weights[:, 1]).mean()
    assert m * (own - other) == pytest.approx(own_label_weight(*alpha, m, mixed), rel=0.05)


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
    # A seed that has one length alone takes no part, or means of different seeds would be subtracted.
    late = pd.DataFrame([("mixup", 9, 1000, 70.0)], columns=["variant", "seed", "steps", "accuracy"])
    with_it = predicted_differences(pd.concat([runs(), late]), 0.1).set_index("steps")["difference"]
    assert with_it.to_dict() == pytest.approx(table.to_dict())
    # Twice the gradient: the baseline was not run for twice its longest schedule.
    assert predicted_differences(runs(), 2.0)["steps"].max() < 10000


@pytest.mark.parametrize("m", [50, 128])
def test_own_label_weights_of_steps(m):
    weights = own_label_weights(m)
    assert weights["erm"] == 1
    # (m E Σλ² - 1) / (m - 1), where λ is uniform, and one pair in m is of an example with itself.
    squares = (1 - 1 / m) * 2 / 3 + 1 / m
    assert weights["mixup"] == pytest.approx((m * squares - 1) / (m - 1))
    alpha = np.linspace(0.5, 2.0, 200_001)
    assert weights["multimix"] == pytest.approx((weights["mixup"] + (1 / (1 + m * alpha)).mean()) / 2, rel=1e-4)
    assert weights["multimix-total"] == pytest.approx((weights["mixup"] + (1 / (1 + alpha)).mean()) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([-1.0, 2.0, 3.0], "between 10 and 100 steps"),
        ([-1.0, 0.0, 3.0], "between 100 and 1,000 steps"),
        ([-1.0, -2.0, -3.0], "at none of 10 to 1,000 steps"),
        ([1.0, -2.0, 3.0], "already at 10 steps"),
    ],
)
def test_crossing_is_the_first(points, says):
    rows = pd.DataFrame({"steps": [10, 100, 1000], "difference": points})
    assert crossing(rows.iloc[::-1]) == says


def test_a_longer_schedule_is_compared_with_the_shorter_one_seed_by_seed():
    late = pd.DataFrame([("mixup", 2, 10000, 70.0)], columns=["variant", "seed", "steps", "accuracy"])
    table = lengthened(pd.concat([runs(), late]), 1000, 10000)
    assert table.index.tolist() == ["mixup"]
    assert table.loc["mixup", ["difference", "seeds", "ahead"]].tolist() == [10.0, 2, 2]
    assert lengthened(runs(), 1000, 100).loc["ours", ["difference", "ahead"]].tolist() == [-41.0, 0]


def test_every_method_that_was_trained_ten_times_as_long_lost_accuracy_on_digits():
    """README and the landing page say so."""
    table = lengthened(scheduled_runs()[0], 4000, 40_000)
    assert {"mixup", "multimix", "multimix-total", "dense_multimix"} <= {*table.index}
    assert (table["difference"] < 0).all()


@pytest.mark.parametrize("dataset", GRIDS)
def test_every_run_and_every_missing_cell_of_a_data_set_is_counted_once(dataset):
    """Cells that a grid takes from another one are in both."""
    records, missing = scheduled_records(dataset=dataset)
    table, same = scheduled_runs(dataset=dataset)
    assert not table.duplicated(["variant", "seed", "epochs"]).any()
    assert len(records) == len(table)
    assert missing == same
    planned = {(cell.grid, cell.path) for grid in GRIDS[dataset] for cell in grids.cells(grid)}
    assert len(records) + len(missing) == len(planned)
    assert set(table["dataset"]) == {dataset}


def test_schedules_of_cifar100_have_their_epochs_steps_and_images():
    table, missing = scheduled_runs(dataset="cifar100")
    assert {"erm", "mixup", "multimix", "multimix-total"} == set(table["variant"])
    found = lengths(table, missing)
    assert found.index.tolist() == [1560, 4680, 23400, 78000]
    assert found["epochs"].tolist() == [20, 60, 300, 1000]
    assert found["images"].tolist() == [128 * steps for steps in found.index]
    # 390 mini-batches an epoch of all 50,000 images, 200 epochs.
    assert found.index[-1] == 200 * (50_000 // 128)
    assert (found["recorded"] + found["missing"]).eq(4 * 3).all()  # variants, seeds
    assert found["recorded"].sum() == len(table)


def test_weights_shrink_as_those_of_sgd_without_a_gradient():
    found = lengths(scheduled_runs(dataset="digits")[0])
    weight = torch.ones((), dtype=torch.double, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=1e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 4000)
    weight.grad = torch.zeros_like(weight)
    for _ in range(4000):
        sgd.step()
        cosine.step()
    assert found.loc[4000, "leaves"] == pytest.approx(weight.item(), rel=1e-3)


def test_a_data_set_without_schedules_or_records_is_named(tmp_path):
    with pytest.raises(ValueError, match="dataset must be one of digits, cifar100, got 'shapes'"):
        scheduled_runs(dataset="shapes")
    with pytest.raises(FileNotFoundError, match="root must hold a run of cifar100-schedules, got "):
        scheduled_runs(str(tmp_path), "cifar100")


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ((5.0, 2.0, -1.0), "5.0 points ahead of mixup after 100 steps (3 seeds, 95 % interval −0.5 to +3.0) and "
         "2.0 points ahead after 300 steps (3 seeds, 95 % interval −0.5 to +3.0). "
         "Its mean is ahead after 100 and 300 steps."),
        ((-5.0, -2.0, -1.0), "Its mean is ahead at no length."),
        ((1.0, 2.0, 3.0), "Its mean is ahead at every length."),
    ],
)  # fmt: skip
def test_sentence_names_both_ends_and_where_the_method_is_ahead(points, says):
    rows = pd.DataFrame({"variant": "erm", "steps": [100, 300, 900], "difference": points, "seeds": [3, 3, 1]})
    rows["low"], rows["high"] = [-0.5, -0.5, float("nan")], [3.0, 3.0, float("nan")]
    said = sentence(rows.iloc[::-1], "erm")  # rows in any order
    assert says in said
    assert said.startswith(f"**ERM** is {standing(rows.iloc[::-1])}. ")


def test_two_seeds_stand_without_an_interval_and_only_where_no_length_has_more():
    rows = pd.DataFrame({"variant": "erm", "steps": [100, 300], "difference": [-1.0, 2.0], "seeds": [2, 1]})
    rows = rows.assign(low=[-1.1, float("nan")], high=[-0.9, float("nan")])
    says = "1.0 points behind mixup after 100 steps (2 seeds) and 2.0 points ahead after 300 steps (1 seed)"
    assert standing(rows) == says


def test_lead_has_the_verdicts_of_all_lengths():
    spread = (-0.1, 0.0, 0.1)
    points = {("digits", 100): -9.0, ("digits", 900): 0.0, ("photographs", 100): -9.0, ("photographs", 900): 9.0}
    of = {"digits": [], "photographs": []}
    for (data, steps), ahead in points.items():
        for seed, off in enumerate(spread):
            of[data] += [("mixup", seed, steps, 90.0), ("multimix", seed, steps, 90.0 + ahead + off)]
    tables = {data: pd.DataFrame(rows, columns=["variant", "seed", "steps", "accuracy"]) for data, rows in of.items()}
    assert lead(tables, "multimix") == (
        "MultiMix is shown to be more accurate than mixup on photographs after 900 steps; it is shown to be less "
        "accurate on digits after 100 steps and on photographs after 100 steps."
    )
    level = {"digits": tables["digits"].query("steps == 900")}
    assert lead(level, "multimix") == "At no recorded length is MultiMix shown to be more accurate than mixup."


def test_bars_are_drawn_for_three_seeds_and_none_for_two():
    rows = pd.DataFrame({"variant": "erm", "steps": [100, 300], "difference": [1.0, 2.0], "seeds": [3, 2]})
    _, axis = plt.subplots()
    draw_differences(axis, rows.assign(low=[0.5, -9.0], high=[1.5, 9.0]))
    (bars,) = axis.collections
    (bar,) = bars.get_segments()
    assert bar[:, 1].tolist() == [0.5, 1.5]
    assert axis.lines[0].get_ydata().tolist() == [1.0, 2.0]
    plt.close()


def test_theory_is_drawn_beside_what_was_measured():
    mine = pd.concat([runs(), runs().query("variant == 'ours'").assign(variant="multimix")]).assign(loss=1.0)
    figure, axes = plt.subplots(4, 1)
    steps = [100, 1000, 10000]
    draw_theory(axes, mine, 50, pd.Series([1.0, 0.9, 0.4], index=steps))
    lines = {line.get_color(): line for line in axes[0].lines if line.get_linestyle() == "--"}
    weights = own_label_weights(50)
    predicted = predicted_differences(mine, weights["multimix"] / weights["mixup"])
    assert lines[style_of("multimix").colour].get_ydata() == pytest.approx(predicted["difference"].to_numpy())
    measured = next(line for line in axes[0].lines if line.get_label() == printed_name("multimix"))
    assert measured.get_ydata().tolist() == [-10.5, 0.5]
    assert axes[0].get_yscale() == "symlog"
    carried = {line.get_label(): line.get_ydata() for line in axes[2].lines}
    assert carried[printed_name("erm")].tolist() == steps
    assert carried[printed_name("multimix")] == pytest.approx([weights["multimix"] * length for length in steps])
    assert axes[3].lines[0].get_ydata().tolist() == [1.0, 0.9, 0.4]
    plt.close(figure)


def test_verdicts_at_other_lengths_are_given_with_their_seeds():
    rows = [
        (variant, steps, seed, accuracy + noise)
        for steps, ours in ((400, 80.0), (40000, 95.0))
        for variant, accuracy in (("mixup", 90.0), ("multimix", ours))
        for seed, noise in enumerate((0.0, 0.1, 0.3) if variant == "mixup" else (0.1, 0.0, 0.3))
    ]
    mine = pd.DataFrame(rows, columns=["variant", "steps", "seed", "accuracy"])
    said = at_other_lengths(mine, {"More accurate": ("accuracy", 1)}, (400, 2000, 40000)).split("\n\n")
    assert said == [
        "After 400 steps (3 seeds). More accurate: does not hold for MultiMix.",
        "After 40,000 steps (3 seeds). More accurate: holds for MultiMix.",
    ]
    assert at_other_lengths(mine[mine["variant"] == "mixup"], {"More accurate": ("accuracy", 1)}) == ""
