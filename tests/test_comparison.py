"""Names and comparisons of the chapters: distinct styles, a fair choice of the best other method, signs, sentences."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mmbook import grids
from mmbook.comparison import best_other, compare_forms, describe, draw_comparisons, forms_and_others, verdict_table
from mmbook.names import STYLES, style_of
from mmbook.verdicts import Comparison, verdicts
from mmlib.experiments.methods import METHODS
from mmlib.experiments.runs import RunRecord


def table(accuracies: dict[str, list[float | None]], metric: str = "validation_accuracy") -> pd.DataFrame:
    """One row a run: variants with a list of values by seed, None where there is no run."""
    rows = [(v, seed, x) for v, values in accuracies.items() for seed, x in enumerate(values) if x is not None]
    return pd.DataFrame(rows, columns=["variant", "seed", metric])


def test_every_variant_of_the_main_grid_has_a_name_a_colour_and_a_marker_of_its_own():
    assert {cell.variant for cell in grids.cells("digits")} == set(STYLES)
    for of in zip(*STYLES.values()):
        assert len(set(of)) == len(STYLES)
    assert {variant.removesuffix("-total") for variant in STYLES} <= set(METHODS)


def test_overrides_keep_the_longest_name_and_other_words_are_no_method():
    assert style_of("multimix-total-m10")[:2] == ("MultiMix (total α) (m10)", STYLES["multimix-total"].colour)
    assert style_of("mixup_alpha-0.2").name == "mixup_alpha-0.2"
    forms, others = forms_and_others(table({"n-1": [1], "multimix-n10": [1], "mixup-m10": [1], "erm": [1]}))
    assert (forms, others) == (["multimix-n10"], ["erm", "mixup-m10"])


def test_best_other_method_is_chosen_on_the_seeds_that_all_share():
    """CutMix has the higher mean by an easy split of its own; a form of MultiMix is never chosen."""
    mixup, cutmix = [90, 80, 85, None], [89, 79, 84, 99]
    assert best_other(table({"mixup": mixup, "cutmix": cutmix, "multimix": [99] * 4})) == "mixup"
    assert best_other(table({"cutmix": cutmix, "erm": [95, None, None, None]})) == "cutmix"
    assert best_other(table({"mixup": [90], "cutmix": [91]})) == "cutmix"
    assert best_other(table({"multimix": [90]})) is None


def test_best_other_method_of_disjoint_seeds_is_that_of_the_higher_mean():
    assert best_other(table({"mixup": [90, None], "cutmix": [None, 91]})) == "cutmix"


def test_positive_differences_favour_the_form_and_forms_without_a_common_seed_are_left_out():
    rows = table({"multimix": [0.5, 0.4], "mixup": [0.6, 0.7], "dense_multimix": [None, None, 0.1]}, "alignment")
    compared = compare_forms(rows, "mixup", "alignment", -1)
    assert list(compared) == ["multimix"]
    np.testing.assert_allclose(compared["multimix"].differences, [0.1, 0.3])


def test_table_shows_a_dash_where_one_seed_has_no_interval():
    written = verdict_table(
        verdicts({"multimix": Comparison(np.array([1.0])), "b": Comparison(np.array([1.0, 2.0, 3.0]))})
    )
    assert list(written.index) == ["MultiMix", "b"]
    assert written.loc["MultiMix", ["advantage", "95 % interval (t)", "Holm's p", "detectable"]].tolist() == [
        "+1.00",
        "–",
        "–",
        "–",
    ]
    assert written.loc["b", "95 % interval (t)"] == "[-0.48, +4.48]"
    assert written.loc["b", "ahead"] == "3 of 3"


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_comparison_is_a_row_with_its_mean(seeds):
    _, axis = plt.subplots()
    draw_comparisons(axis, {"multimix": Comparison(np.arange(seeds) + 1.0)}, "points")
    assert [label.get_text() for label in axis.get_yticklabels()] == ["MultiMix"]
    assert axis.lines[1].get_xdata() == pytest.approx((seeds + 1) / 2)
    plt.close()


def record(variant: str, epochs: int, batch_size: int | None) -> RunRecord:
    environment = {"images_per_second": 40.0, "train_seconds": epochs * 100 / 40}
    config = {"batch_size": batch_size, "epochs": epochs}
    return RunRecord("digits", "preactresnet-small", variant, 0, config, {}, [], environment, Path(), Path())


def test_description_counts_methods_seeds_steps_and_images():
    runs = [record("erm", 2000, None), record("erm", 2000, None), record("mixup", 1000, 50)]
    counts = "1 to 2 seeds a method, 2,000 to 4,000 steps, 100 labelled images"
    assert describe(runs) == f"3 finished runs of 2 methods: {counts}"
    assert describe(runs[:1]) == "1 finished run of 1 method: 1 seed a method, 4,000 steps, 100 labelled images"
