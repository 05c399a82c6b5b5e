"""The costs of grids: operations counted by hand, extrapolations in proportion, and hours added up from records."""

import pytest

from mmbook import costs, grids
from mmbook.cluster import Job


def test_operations_are_those_of_the_layers():
    """A vision transformer is nearly all matrix products: six operations a weight and token, forward and backward."""
    counted = costs.operations("vit-small-16", costs.IMAGES["imagenet"])
    tokens, weights = 14 * 14 + 1, 12 * 12 * 384**2
    attention = 12 * 2 * tokens**2 * 384
    assert counted == pytest.approx(6 * (tokens * weights + attention), rel=0.05)


def test_hours_are_in_proportion_to_epochs_images_and_method():
    full, few = grids.cells("cifar100-resnet18")[0], grids.cells("cifar100-resnet18-few")[0]
    assert (costs.training_images(full), costs.training_images(few)) == (50_000, 10_000)
    assert full.settings["epochs"] == few.settings["epochs"]
    factors = {"erm": 1.0, "mixup": 2.0}
    hours = costs.extrapolated_gpu_hours(full, factors, 1e14)
    assert hours == pytest.approx(5 * costs.extrapolated_gpu_hours(few, factors, 1e14))
    assert hours == pytest.approx(costs.extrapolated_gpu_hours(full, factors, 2e14) * 2)
    of_method = {cell.variant: costs.extrapolated_gpu_hours(cell, factors, 1e14) for cell in grids.cells(full.grid)}
    assert of_method["mixup"] == of_method["alignmixup"] == pytest.approx(2 * of_method["erm"])


def test_cells_of_several_gpus_share_their_hours():
    (job, *_), cell = (
        costs.extrapolated_jobs("imagenet-resnet50", {"erm": 1.0}, 1e14),
        grids.cells("imagenet-resnet50")[0],
    )
    assert job == Job(costs.extrapolated_gpu_hours(cell, {"erm": 1.0}, 1e14) / 8, 8)


def test_recorded_hours_are_those_of_the_records():
    records = grids.grid_records("signal").records
    assert len(records) == len(grids.cells("signal"))
    per_variant = {}
    for record in records:
        per_variant.setdefault(record.variant, []).append(record.environment["train_seconds"])
    middle = sum(5 * sorted(seconds)[2] for seconds in per_variant.values())  # five seeds each
    hours, count = costs.recorded_hours("signal", "cpu")
    assert (hours, count) == (pytest.approx(middle / 3600), len(records))
    assert costs.recorded_hours("signal", "cuda") is None


def test_a_method_costs_what_its_epochs_take_beside_erms():
    records = grids.grid_records(costs.MEASURED_ON_GPU).records
    factors = costs.method_factors(records)
    assert factors["erm"] == 1.0
    assert 1.0 < factors["multimix"] < 1.5
