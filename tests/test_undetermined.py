"""The list of open settings: it is of this code, of grids that exist, and its differences are taken seed by seed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mmbook import grids, undetermined
from mmbook.undetermined import SETTINGS, Setting, sensitivities, sensitivity
from mmlib.experiments.runs import RunRecord
from tests.helpers import make_record


def test_every_name_stands_in_its_file_and_no_marked_file_is_left_out():
    assert undetermined.misplaced() == []
    assert undetermined.unlisted() == []


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.grid], ids=lambda s: s.what)
def test_variants_that_measure_a_setting_are_planned(setting):
    planned = {cell.variant for cell in grids.cells(setting.grid)}
    assert {setting.ours, *setting.others.split()} <= planned


def record(variant: str, seed: int, accuracy: float) -> RunRecord:
    return make_record(variant, seed, metrics={"accuracy": accuracy})


def test_differences_are_taken_on_the_seeds_that_both_have():
    ours = [record("multimix", seed, 90.0 + seed) for seed in range(3)]
    others = [record("alpha-1", 0, 91.0), record("alpha-1", 2, 95.0), record("alpha-10", 0, 50.0)]
    setting = Setting("R", "α", "sampling.py", "alpha", "ablations", "multimix", "alpha-1 alpha-10 alpha-3")
    found = {"ablations": ours + others}
    assert sensitivity(setting, found) == {"alpha-1": "+2.0 (2)"}  # 1 and 3 points
    third = {"ablations": [*ours, *others, record("alpha-1", 1, 93.0)]}
    assert sensitivity(setting, third) == {
        "alpha-1": "+2.0 [-0.5, +4.5] (3)"
    }  # t of 2 degrees, 4.303, times 1 / 3**0.5
    assert list(sensitivity(setting, found, least_seeds=1)) == ["alpha-1", "alpha-10"]
    assert sensitivity(setting, {}) == {}


def test_multimix_s_own_settings_are_told_from_other_methods_and_lengths_and_the_largest_come_first():
    accuracies = {"multimix": 90.0, "n-1": 89.0, "alpha-10": 93.0, "probability-1": 40.0}
    found = {"ablations": [record(v, seed, of) for v, of in accuracies.items() for seed in range(3)]}
    found["compared"] = [
        record(v, seed, of) for v, of in {"cutmix": 90.0, "cutmix-probability-1": 10.0}.items() for seed in range(3)
    ]
    found["schedules"] = [
        record(v, seed, of) for v, of in {"multimix": 90.0, "multimix-epochs50": 10.0}.items() for seed in range(3)
    ]
    own = undetermined.own_differences(found)
    assert {name: of.mean for name, of in own.items()} == {
        "embeddings always mixed": -50.0,
        "α = 10": 3.0,
        "n = 1": -1.0,
    }
    assert list(own) == ["embeddings always mixed", "α = 10", "n = 1"]
    assert undetermined.own_differences(found, least_seeds=4) == {}


def test_differences_are_drawn_with_their_intervals():
    compared = {"x": undetermined.Comparison(np.array([1.0, 2.0, 3.0]))}
    figure, axis = plt.subplots()
    undetermined.draw_differences(axis, compared)
    interval, mean, _ = axis.lines
    assert interval.get_xdata().tolist() == pytest.approx([-0.484, 4.484], abs=1e-3)
    assert list(mean.get_xdata()) == [2.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x"]
    plt.close(figure)


def test_table_prints_names_and_says_what_is_not_measured():
    table = sensitivities({"ablations": [record(v, s, 90.0) for v in ("multimix", "n-1") for s in range(2)]})
    assert len(table) == len(SETTINGS)
    shown = table.set_index("what")["difference (points)"]
    assert shown["n = 1000 mixtures a mini-batch"] == "n = 1 +0.0 (2)"
    assert (shown == "not measured").sum() == len(SETTINGS) - 1
