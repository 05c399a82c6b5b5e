"""Names and comparisons of the chapters: distinct styles, a fair choice of the best other method, signs, sentences."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from scipy.spatial.distance import pdist

from mmbook import grids, plots, schedules
from mmbook.comparison import (
    best_other,
    compare_forms,
    decided,
    describe,
    draw_comparisons,
    forms_and_others,
    mean_auroc,
    seed_by_seed,
    sentence,
    training_steps,
    verdict_table,
)
from mmbook.names import FORMS, STYLES, style_of
from mmbook.verdicts import FAILS, HOLDS, OPEN, UNTESTABLE, Comparison, verdicts
from mmlib.experiments.methods import METHODS
from mmlib.experiments.runs import RunRecord
from tests.helpers import make_record


def table(accuracies: dict[str, list[float | None]], metric: str = "validation_accuracy") -> pd.DataFrame:
    """One row a run: variants with a list of values by seed, None where there is no run."""
    rows = [(v, seed, x) for v, values in accuracies.items() for seed, x in enumerate(values) if x is not None]
    return pd.DataFrame(rows, columns=["variant", "seed", metric])


def test_every_variant_of_the_main_grid_has_a_name_a_colour_and_a_marker_of_its_own():
    assert {cell.variant for cell in grids.cells("digits")} == set(STYLES)
    for of in zip(*STYLES.values()):
        assert len(set(of)) == len(STYLES)
    assert {variant.removesuffix("-total") for variant in STYLES} <= set(METHODS)


# Machado et al. (2009): linear RGB as people without red or without green cones see it.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear_rgb(colours) -> np.ndarray:
    """Linear RGB (k, 3) of hexadecimal sRGB."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def smallest_distance(colours, vision) -> float:
    """The smallest distance of two colours in Oklab, whose white has a lightness of 100."""
    seen = np.clip(linear_rgb(colours) @ VISION[vision].T, 0, 1)
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return float(pdist(100 * np.cbrt(seen @ np.transpose(cones)) @ np.transpose(lab)).min())


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_readers_who_do_not_see_red_or_green(vision):
    """A distance of two is hardly seen, and Okabe and Ito's eight colours keep 7.6; fourteen cannot keep as much."""
    colours = {variant: style.colour for variant, style in STYLES.items()}
    assert smallest_distance(colours.values(), vision) > 6
    assert smallest_distance([colours[form] for form in FORMS], vision) > 10
    main = [variant for variant in ("erm", "mixup", "cutmix", "manifold_mixup", *FORMS) if "distill" not in variant]
    assert smallest_distance([colours[variant] for variant in main], vision) > 10
    assert smallest_distance(plots.SERIES, vision) > 7


def test_colours_stand_out_from_the_ground_of_figures_which_is_white_on_every_page():
    """By the contrast of 3 that WCAG asks of graphics."""
    assert plots.LOOK["figure.facecolor"] == plots.LOOK["savefig.facecolor"] == "white"
    luminance = linear_rgb([*(style.colour for style in STYLES.values()), *plots.SERIES, plots.INK, plots.ACCENT])
    assert (1.05 / (luminance @ [0.2126, 0.7152, 0.0722] + 0.05)).min() >= 2.99


def test_methods_keep_their_colour_marker_and_name_in_every_kind_of_figure():
    rows = table({"erm": [1, 2], "multimix": [3, 4], "n-1": [5, 6]}, "accuracy")
    rows = rows.assign(
        dataset="digits", steps=rows["seed"] + 1, uniformity=1.0, difference=1.0, low=0.0, high=2.0, seeds=3
    )
    style = STYLES["multimix"]
    _, axes = plt.subplots(1, 3)
    plots.against(axes[0], rows, "steps", "accuracy", "variant", {"multimix": 3.0})
    schedules.draw_differences(axes[1], rows)
    plots.by_variant(axes[2], rows, "uniformity", "accuracy")
    for axis in axes:
        assert style.name in axis.get_legend_handles_labels()[1]
    lines = [line for axis in axes for line in axis.lines if to_hex(line.get_color()) == style.colour]
    markers = [line.get_marker() for line in lines]
    assert markers.count(style.marker) == 2
    assert set(markers) == {style.marker, "None", "_"}  # the dashed level, and the ends of error bars
    assert style.colour in {to_hex(dots.get_facecolor()[0]) for dots in axes[2].collections}
    seeds = plots.seeds_by_variant(rows, "accuracy", "accuracy (%)").axes[0]
    assert [label.get_text() for label in seeds.get_yticklabels()] == ["ERM", "MultiMix", "n = 1"]
    means = {to_hex(line.get_color()): line for line in seeds.lines if line.get_marker() == style.marker}
    assert means[style.colour].get_xdata() == pytest.approx(3.5)
    plt.close("all")


def test_overrides_keep_the_longest_name_and_other_words_are_no_method():
    assert style_of("multimix-total-m10")[:2] == ("MultiMix (total α) (m = 10)", STYLES["multimix-total"].colour)
    assert style_of("mixup_alpha-0.2").name == "input mixup's α = 0.2"  # an option, and no form of mixup
    assert style_of("amplified-total").name == "own part amplified, total α"
    assert style_of("amplified-n100").name == "own part amplified, n = 100"
    assert style_of("something").name == "something"
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


def family(of_claims: dict[str, list[str]], forms: tuple[str, ...], seeds: int = 5) -> pd.DataFrame:
    """Verdicts by claim and form: a list for each claim, in the order of the forms."""
    rows = {(claim, form): v for claim, says in of_claims.items() for form, v in zip(forms, says, strict=True)}
    return pd.DataFrame({"verdict": rows, "seeds": seeds})


TWO, THREE = ("multimix", "multimix-m10"), ("multimix", "multimix-total", "dense_multimix")


@pytest.mark.parametrize(
    ("of_claims", "forms", "says"),
    [
        (
            {"sharper": [HOLDS, OPEN, HOLDS], "faster": [OPEN] * 3, "safer": [HOLDS] * 3},
            THREE,
            "*sharper* holds for MultiMix and Dense MultiMix, *safer* for all three forms; "
            "four of nine verdicts are open",
        ),
        (
            {"sharper": [FAILS] * 3, "safer": [HOLDS, OPEN, FAILS], "faster": [UNTESTABLE] * 3},
            THREE,
            "*safer* holds for MultiMix; *sharper* does not hold for any of the three forms, "
            "nor *safer* for Dense MultiMix; one of nine verdicts is open and three not testable here",
        ),
        (
            {"sharper": [HOLDS, HOLDS], "safer": [FAILS, FAILS]},
            TWO,
            "*sharper* holds for both forms; *safer* does not hold for either form; no verdict is open",
        ),
        (
            {"sharper": [HOLDS, OPEN], "safer": [FAILS, FAILS], "faster": [HOLDS, OPEN], "calmer": [FAILS, FAILS]},
            TWO,
            "*sharper* and *faster* hold for MultiMix; *safer* and *calmer* do not hold for either form; "
            "two of eight verdicts are open",
        ),
        ({"safer": [OPEN, FAILS]}, TWO, "*safer* does not hold for MultiMix (m = 10); one of two verdicts is open"),
        ({"sharper": [OPEN] * 3, "safer": [OPEN] * 3}, THREE, "all six verdicts are open"),
        ({"sharper": [HOLDS]}, TWO[:1], "*sharper* holds for MultiMix; no verdict is open"),
        ({"sharper": [OPEN, OPEN]}, TWO, "both verdicts are open"),
        ({"sharper": [OPEN]}, TWO[:1], "the only verdict is open"),
    ],
)
def test_decided_claims_are_named_with_their_forms_and_open_ones_are_counted(of_claims, forms, says):
    assert decided(family(of_claims, forms), "mixup") == f"Against mixup, {says}."


def test_few_seeds_are_said_to_decide_nothing():
    undecided = family({"sharper": [OPEN] * 3, "faster": [UNTESTABLE] * 3}, THREE, seeds=2)
    assert decided(undecided, "the best other method, ERM") == (
        "Against the best other method, ERM, fewer than three seeds decide nothing; "
        "three of six verdicts are open and three not testable here."
    )
    undecided.loc[("sharper", "multimix"), "seeds"] = 3  # enough for one of them
    assert "fewer" not in decided(undecided, "ERM")


def test_seeds_that_one_of_two_methods_lacks_have_no_difference_and_no_share_in_its_mean():
    rows = table({"mixup": [40, 42, None], "multimix": [41, 45, 99], "cutmix": [None, 40, None]}, "accuracy")
    written = seed_by_seed(rows, "accuracy", "mixup")
    assert written.index.tolist() == ["mixup", "CutMix", "MultiMix"]
    assert written.loc["MultiMix"].tolist() == ["0, 1 and 2", "61.67", "+1.00", "+3.00", "–", "+2.00"]
    assert written.loc["CutMix"].tolist() == ["1", "40.00", "–", "-2.00", "–", "-2.00"]
    assert written.loc["mixup"].tolist() == ["0 and 1", "41.00", "–", "–", "–", "–"]
    with pytest.raises(ValueError, match="baseline must be one of cutmix, mixup, multimix, got 'erm'"):
        seed_by_seed(rows, "accuracy", "erm")


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
    return make_record(variant, config=config, environment=environment)


def test_description_counts_variants_seeds_steps_and_images():
    runs = [record("erm", 2000, None), record("erm", 2000, None), record("mixup", 1000, 50)]
    counts = "1 to 2 seeds each, 2,000 to 4,000 steps, 100 images an epoch"
    assert describe(runs) == f"3 finished runs of 2 variants: {counts}"
    counted = make_record("erm", config=runs[0].config, environment=runs[0].environment | {"steps": 970})
    assert training_steps(counted) == 970
    assert describe(runs[:1]) == "1 finished run of 1 variant: 1 seed each, 4,000 steps, 100 images an epoch"


@pytest.mark.parametrize("word", ["open", "holds"])
def test_forms_of_one_verdict_are_counted_and_not_named(word):
    of_all = pd.Series(word, index=FORMS)
    assert sentence("Tighter", of_all) == f"Tighter: {word} for all six forms of MultiMix."
    assert sentence("Tighter", of_all[:2]) == f"Tighter: {word} for both forms of MultiMix."
    assert sentence("Tighter", of_all[:1]) == f"Tighter: {word} for MultiMix."
    overridden = of_all.rename("{}-m10".format)
    assert sentence("Tighter", overridden) == f"Tighter: {word} for all six forms of MultiMix."


@pytest.mark.parametrize("word", ["does not hold", "not testable here", "not told apart"])
def test_a_negative_verdict_on_all_forms_is_not_read_as_one_on_some(word):
    of_all = pd.Series(word, index=FORMS)
    assert sentence("Tighter", of_all) == f"Tighter: {word} for any of the six forms of MultiMix."


def test_the_largest_group_of_forms_comes_last_and_is_counted():
    words = pd.Series("open", index=FORMS)
    words["dense_multimix"] = "holds"
    assert sentence("Tighter", words) == (
        "Tighter: holds for Dense MultiMix; open for the other five forms of MultiMix."
    )
    words["multimix":"dense_multimix"] = "holds"
    words["multimix_distill"] = "does not hold"
    assert sentence("Tighter", words) == (
        "Tighter: does not hold for MultiMix with distillation; open for Dense MultiMix (total α) and "
        "Dense MultiMix with distillation; holds for the other three forms of MultiMix."
    )
    words["multimix_distill"] = "open"
    assert sentence("Tighter", words[::-1]) == (  # of two as large the open one
        "Tighter: holds for Dense MultiMix, MultiMix (total α) and MultiMix; "
        "open for the other three forms of MultiMix."
    )


def test_other_methods_are_named_also_beside_forms():
    assert sentence("Tighter", pd.Series("open", index=["erm", "mixup"])) == "Tighter: open for ERM and mixup."
    mixed = pd.Series("open", index=["erm", "multimix", "dense_multimix"])
    assert sentence("Tighter", mixed) == "Tighter: open for ERM, MultiMix and Dense MultiMix."


def test_mean_auroc_is_over_the_sets_of_other_images():
    run = grids.grid_records("digits").records[0]
    by_set = [found["maximum_softmax"]["auroc"] for found in run.metrics["ood"].values()]
    assert len(by_set) > 1
    assert mean_auroc(run) == pytest.approx(sum(by_set) / len(by_set))
    assert np.isnan(mean_auroc(dataclasses.replace(run, metrics=run.metrics | {"ood": {}})))


def test_two_seeds_get_a_verdict_and_a_difference_but_no_interval():
    written = verdict_table(verdicts({"two": Comparison(np.array([1.0, 2.0])), "three": Comparison(np.arange(3.0))}))
    uncertain = ["95 % interval (t)", "bootstrap", "detectable"]
    assert written.loc["two", uncertain].tolist() == ["–"] * 3
    assert written.loc["two", "advantage"] == "+1.50"
    assert "–" not in written.loc["three", uncertain].tolist()
