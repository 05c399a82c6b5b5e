"""What chapters 7 and 12 and README say of CIFAR-100 in words, held against the records: a new record may end it."""

import pandas as pd
import pytest

from mmbook import grids, ledger, schedules
from mmbook.verdicts import compare, is_saturated


@pytest.fixture(scope="module")
def records():
    return grids.grid_records("cifar100-long").records


@pytest.fixture(scope="module")
def numbers(records) -> pd.DataFrame:
    table = pd.DataFrame(ledger.table(records))
    for row, run in enumerate(records):
        for name, of_set in run.metrics["ood"].items():
            table.loc[row, f"ood_{name}"] = of_set["maximum_softmax"]["auroc"]
    return table


@pytest.fixture(scope="module")
def photographs() -> pd.DataFrame:
    return schedules.scheduled_runs(dataset="cifar100")[0]


def by_length(runs: pd.DataFrame, variant: str) -> pd.Series:
    """Differences to mixup by the number of steps."""
    table = schedules.differences(runs)
    return table[table["variant"] == variant].set_index("steps")["difference"]


def test_published_alpha_is_behind_mixup_and_level_with_erm_and_total_alpha_is_ahead(numbers):
    gaps = compare(numbers, "multimix", "mixup", "accuracy")
    assert gaps.seeds >= 3
    assert gaps.ahead == 0
    assert abs(compare(numbers, "multimix", "erm", "accuracy").mean) < 0.5
    total = compare(numbers, "multimix-total", "mixup", "accuracy")
    assert total.ahead == total.seeds >= 3
    assert total.mean < 1.0
    assert compare(numbers, "dense_multimix-total", "mixup", "accuracy").mean < 0


def test_alignmixup_and_third_seeds_are_of_processors_and_all_others_of_a_gpu(records):
    for run in records:
        of_processor = run.variant == "alignmixup" or run.seed == 2
        assert run.environment["device"].startswith("x86_64") == of_processor


def test_alignmixup_is_level_with_total_alpha_and_its_seeds_lie_further_apart(numbers):
    accuracy = numbers.groupby("variant")["accuracy"]
    assert abs(accuracy.mean()["alignmixup"] - accuracy.mean()["multimix-total"]) < 0.3
    assert accuracy.std()["alignmixup"] > 2 * accuracy.std()["multimix-total"]


def test_each_alpha_gives_one_property_of_the_embeddings_and_only_the_dense_form_both(numbers):
    def gaps(variant, metric):
        return compare(numbers, variant, "mixup", metric, -1)

    for variant in ("multimix", "dense_multimix"):
        tighter = gaps(variant, "alignment")
        assert tighter.ahead == tighter.seeds
        assert abs(gaps(variant, "uniformity").mean) < 0.02
    for variant in ("multimix-total", "dense_multimix-total"):
        more_even = gaps(variant, "uniformity")
        assert more_even.ahead == more_even.seeds
    assert gaps("multimix-total", "alignment").ahead == 0
    both = gaps("dense_multimix-total", "alignment")
    assert both.ahead == both.seeds
    for metric in ("alignment", "uniformity"):
        forms = [variant for variant in numbers["variant"].unique() if "multimix" in variant]
        assert max(abs(gaps(form, metric).mean) for form in forms) < abs(gaps("erm", metric).mean)
    means = numbers.groupby("variant")[["alignment", "uniformity"]].mean()
    assert means["alignment"].idxmin() == means["uniformity"].idxmax() == "erm"


def test_calibration_attacks_and_other_images(numbers):
    assert numbers.groupby("variant")["calibration_error"].mean().idxmax() == "erm"
    assert is_saturated(numbers, "fgsm_error")
    assert is_saturated(numbers, "pgd_error")
    by_seed = numbers.groupby("variant")[["ood_uniform", "ood_gaussian"]]
    assert (by_seed.max() - by_seed.min()).max().min() > 20
    assert abs(compare(numbers, "multimix", "mixup", "ood_cifar10").mean) < 1


def test_erm_is_nearly_done_after_a_third_and_multimix_climbs_longest(records):
    shares = {}
    for run in records:
        history = pd.DataFrame(run.history).set_index("epoch")["validation_accuracy"].dropna()
        if run.seed == 0:
            shares[run.variant] = history[history.index <= run.config["epochs"] / 3].iloc[-1] / history.iloc[-1]
    order = pd.Series(shares).sort_values()
    assert set(order.index[:2]) == {"multimix", "dense_multimix"}
    assert order.index[-1] == "erm"
    assert order["erm"] > 0.88


def test_the_gap_to_mixup_closes_with_length_and_erm_falls_behind(photographs):
    multimix, erm, total = (by_length(photographs, name) for name in ("multimix", "erm", "multimix-total"))
    assert photographs["steps"].max() == 23400
    assert (multimix < 0).all()
    assert multimix.is_monotonic_increasing
    assert erm.is_monotonic_decreasing
    assert erm.iloc[0] > 0 > erm.iloc[-1]
    assert (total > -0.3).all()


def test_the_own_label_predicts_the_loss_at_4680_steps_and_more_than_there_is_at_23400(photographs):
    pair = schedules.own_label_weight(1.0, 1.0, 128, mixed=2)
    fraction = (pair + schedules.own_label_weight(0.5, 2.0, 128)) / 2 / pair
    predicted = schedules.predicted_differences(photographs, fraction).set_index("steps")["difference"]
    measured = by_length(photographs, "multimix")
    assert predicted[4680] == pytest.approx(measured[4680], abs=0.5)
    assert predicted[23400] < measured[23400] - 1


def test_on_digits_multimix_starts_far_behind_and_its_mean_is_ahead_after_some_thousand_steps():
    multimix = by_length(schedules.scheduled_runs(dataset="digits")[0], "multimix")
    assert multimix.iloc[0] < -10
    assert (multimix[multimix.index >= 4000] > 0).all()
