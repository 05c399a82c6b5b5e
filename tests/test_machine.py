"""Runs of this machine against records: identical, within the measured band, or outside it."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

import mmlib.experiments.__main__
from mmbook import ledger, machine
from mmbook.grids import Cell
from mmlib.experiments.arguments import to_arguments

PARAMETERS = {"dataset": "digits", "model": "preactresnet-small", "method": "erm", "epochs": 2, "threads": 1}


def test_band_holds_the_asked_share_of_differences():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        width = machine.half_width(list(rng.normal(0, 3.0, 10)), level=0.9)
        covered.append((np.abs(rng.normal(0, 3.0, 200)) <= width).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)
    assert machine.half_width([2.0], 0.95) == pytest.approx(2 * stats.t.ppf(0.975, 1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Run folders and a ledger of one cell, and a cell without a record."""
    root = tmp_path_factory.mktemp("machine")
    cells = [Cell("tiny", "digits", "erm", seed, PARAMETERS | {"seed": seed}) for seed in (0, 1)]
    folder = root / "runs" / "tiny" / cells[0].path
    settings = {"folder": str(folder), "attacked_per_class": 1, "out_sets": ["uniform"]}
    mmlib.experiments.__main__.main(to_arguments(cells[0].parameters | settings))
    ledger.add(ledger.load_folder(folder), root / "results" / "tiny", embeddings=False)
    return root, cells


def add_twin(root, name, **changes):
    """Add a record of the same run with other metrics to a ledger of its own."""
    record = ledger.load_record(next((root / "results" / "tiny").rglob("seed0.json")))
    changed = record.metrics | {name: record.metrics[name] + change for name, change in changes.items()}
    ledger.add(dataclasses.replace(record, metrics=changed), root / name / "tiny", embeddings=False)


def test_cells_with_a_run_and_a_record_are_compared(folders, tmp_path):
    root, cells = folders
    band = {"accuracy": 1.0, "alignment": 0.1, "uniformity": 0.1}
    compared = machine.compare_cells(cells, root / "runs", root / "results", band)
    assert compared[["variant", "seed", "outcome"]].to_numpy().tolist() == [["erm", 0, machine.IDENTICAL]]
    assert machine.compare_cells(cells, tmp_path, root / "results", band).empty
    for name, changes, expected in (
        ("near", {"accuracy": 0.9, "alignment": -0.05}, machine.WITHIN),
        ("far", {"uniformity": 0.2}, machine.OUTSIDE),
        ("unwatched", {"nll": 0.2}, machine.WITHIN),
    ):
        add_twin(root, name, **changes)
        found = machine.compare_cells(cells, root / "runs", root / name, band)
        assert found["outcome"].tolist() == [expected]
        for metric, change in changes.items():
            if metric in machine.METRICS:
                assert found[metric].item() - found[f"{metric}_here"].item() == pytest.approx(change)


def test_band_is_measured_from_twins_of_records(folders):
    root, _ = folders
    add_twin(root, "twins", accuracy=-2.0)
    band, pairs = machine.measure_band(root / "results" / "tiny", root / "twins" / "tiny")
    assert pairs == 1
    assert band["accuracy"] == pytest.approx(2 * stats.t.ppf(1 - 0.025 / 3, 1))
    assert band["alignment"] == 0
    empty, pairs = machine.measure_band(root / "results" / "tiny", root / "nowhere")
    assert (empty["accuracy"], pairs) == (float("inf"), 0)


def test_page_has_a_row_for_each_cell_and_its_numbers(folders):
    root, cells = folders
    band, pairs = {"accuracy": 1.0, "alignment": 0.1, "uniformity": 0.1}, 4
    compared = machine.compare_cells(cells, root / "runs", root / "results", band)
    text = machine.page(compared, band, pairs)
    accuracy = json.loads(next((root / "results").rglob("seed0.json")).read_text())["metrics"]["accuracy"]
    assert f"| ERM | 0 | identical | {accuracy:.2f} | {accuracy:.2f} |" in text
    assert "accuracy ± 1.00, alignment ± 0.100" in text
    assert "of 1 run 1 is identical, 0 are within the band, 0 are outside" in text
    assert "no run of this machine" in machine.page(compared.iloc[:0], band, pairs)
