"""Grids of experiments.yml, what a ledger holds of them, and the command that goes on recording."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmbook import grids, ledger
from mmlib.experiments import data, runs
from mmlib.experiments.evaluation.suite import evaluate

ROOT = Path(__file__).parents[1]
TINY = {
    "seeds": [0, 1],
    "weights": True,
    "settings": {"model": "preactresnet-small", "precision": "float32", "threads": 1},
    "datasets": {"digits": {"epochs": 2, "lr": 0.1}, "shapes": {"epochs": 1, "lr": 0.05, "only": ["erm"]}},
    "variants": {"erm": {"method": "erm"}, "multimix-n10": {"method": "multimix", "options": {"num_mixtures": 10}}},
}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """What the commands need of the repository, with a grid that takes seconds."""
    for name in ("mmbook", "mmlib", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "_config.yml", "_toc.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    for name in ("book", "examples"):
        (tmp_path / name).mkdir()
    embedded = yaml.safe_load((ROOT / "experiments.yml").read_text())["embedded"]
    (tmp_path / "experiments.yml").write_text(yaml.safe_dump({"tiny": TINY, "embedded": embedded}, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_cells_come_seed_by_seed_in_the_order_of_the_file(clone):
    cells = grids.cells("tiny")
    assert [str(cell.place) for cell in cells[:3]] == [
        "digits/preactresnet-small/erm/seed0",
        "digits/preactresnet-small/multimix-n10/seed0",
        "shapes/preactresnet-small/erm/seed0",
    ]
    assert [cell.seed for cell in cells] == [0, 0, 0, 1, 1, 1]
    assert cells[1].parameters == {
        "dataset": "digits",
        "model": "preactresnet-small",
        "precision": "float32",
        "threads": 1,
        "epochs": 2,
        "lr": 0.1,
        "method": "multimix",
        "options": {"num_mixtures": 10},
        "seed": 0,
    }
    assert (cells[1].config.options, cells[1].config.epochs) == ({"num_mixtures": 10}, 2)
    with pytest.raises(ValueError, match=r"grid is 'tinny'; experiments.yml has tiny, embedded"):
        grids.cells("tinny")


@pytest.mark.parametrize("grid", list(yaml.safe_load((ROOT / "experiments.yml").read_text())))
def test_every_cell_of_every_grid_is_a_configuration(grid):
    cells = grids.cells(grid)
    assert len({cell.place for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.config.seed == cell.seed


def enter(cell, root, **changes):
    """Train the cell for real, with `changes` to its configuration, and put it into the ledger at its place."""
    dataset = data.load(cell.dataset, seed=cell.seed)
    folder = root / "runs" / cell.place
    run = runs.load_or_train(dataclasses.replace(cell.config, **changes), dataset, folder)
    runs.write(folder, run, *evaluate(run.classifier, dataset))
    ledger.enter(runs.read(folder), root / "book" / "results" / "tiny")


def test_a_cell_of_several_processes_takes_a_run_of_as_many(clone):
    content = yaml.safe_load((clone / "experiments.yml").read_text())
    (erm, *_), tiny = grids.cells("tiny"), content["tiny"]
    enter(erm, clone)
    tiny["settings"] |= {"processes": 4}
    (clone / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    (four, *_) = grids.cells("tiny")
    assert (four.processes, four.parameters, four.config) == (4, erm.parameters, erm.config)
    assert grids.recorded("tiny").refused == [f"{erm.place} is left out: processes is 1, the grid has 4"]


def test_what_does_not_fit_its_cell_is_listed_and_left_out(clone):
    erm, multimix, *others = grids.cells("tiny")
    assert grids.recorded("tiny") == ([], [erm, multimix, *others], [])
    enter(erm, clone)
    enter(multimix, clone, options={"num_mixtures": 11})
    found, missing, refused = grids.recorded("tiny")
    assert [record.place for record in found] == [erm.place]
    assert missing == [multimix, *others]
    assert refused == [
        f"{multimix.place} is left out: options is {{'num_mixtures': 11}}, the grid has {{'num_mixtures': 10}}"
    ]
    path = clone / "book" / "results" / "tiny" / erm.place.with_suffix(".json")
    path.write_text(path.read_text().replace('"nll"', '"nul"'))
    stranger = path.parents[1] / "stranger" / "seed0.json"
    stranger.parent.mkdir()
    content = json.loads((path.parents[1] / "multimix-n10" / "seed0.json").read_text())
    stranger.write_text(json.dumps(content))
    found, _, refused = grids.recorded("tiny")
    assert not found
    assert len(refused) == 3
    assert any("erm/seed0.json does not fit its checksum: it was edited by hand: left out" in line for line in refused)
    assert any("stranger/seed0 is left out: the grid has no such cell" in line for line in refused)


def test_data_sets_that_are_not_there_are_named_before_anything_starts(clone, monkeypatch):
    def absent(root, **options):
        raise OSError("no network")

    from torchvision import datasets

    monkeypatch.setattr(datasets, "CIFAR100", absent)
    of = {"cifar100": {"epochs": 1}, "digits": {"epochs": 1, "out_sets": ["uniform", "shapes"]}}
    of["holed"] = {"dataset": "digits", "out_sets": ["uniform", "missing/LSUN"]}
    content = {"tiny": TINY | {"datasets": of}}
    (clone / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    lacking = grids.lacking(grids.cells("tiny"))
    assert lacking.keys() == {"cifar100", "holed"}
    assert lacking["cifar100"] == (
        "cifar100 is not in root 'data'; it takes data/cifar100.npz or torchvision's download: no network"
    )
    assert lacking["holed"].startswith("test set is 'missing/LSUN', which is not there")
    content["tiny"]["settings"] = TINY["settings"] | {"labelled_per_class": 1000}
    (clone / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ValueError, match="labelled_per_class is 1000; class '0' has"):
        grids.lacking([cell for cell in grids.cells("tiny") if cell.dataset == "digits"])


def test_recording_goes_on_where_it_stopped(clone):
    """Real Snakemake, real papermill: no time, then a cell that cannot run, then the rest."""

    def record(minutes):
        command = [sys.executable, "-m", "tools.record", "tiny", str(minutes), "--cores", "2"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False)

    def experiments(lr, **others):
        content = yaml.safe_load((clone / "experiments.yml").read_text())
        variants = {"erm": {"method": "erm", "processes": 2}, "mixup": {"method": "mixup", "lr": lr}}
        content["tiny"] |= {
            "seeds": [0],
            "datasets": {"digits": {"epochs": 2, "lr": 0.1}} | others,
            "variants": variants,
        }
        (clone / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))

    experiments(lr=1e30)
    stopped = record(0)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "tiny: 0 of 2 cells are recorded" in stopped.stdout
    first = record(10)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "entered digits/preactresnet-small/erm/seed0\ntiny: 1 of 2 cells are recorded" in first.stdout
    (record_of_two,) = grids.recorded("tiny").found
    assert record_of_two.environment["processes"] == 2
    assert "digits/preactresnet-small/mixup/seed0: 0 of 2 epochs; FAILED: FloatingPointError: the loss" in first.stdout
    experiments(lr=0.1, absent={"dataset": "data/absent", "epochs": 2, "lr": 0.1})
    second = record(10)
    assert second.returncode == 0, second.stdout + second.stderr
    skipped, entered, recorded, *_ = second.stdout.splitlines()
    assert skipped.startswith(
        "skipped 2 cells of absent: dataset is 'data/absent', which is not there; it takes digits"
    )
    assert skipped.endswith("; book/run.md, Data sets, says how to get it")
    assert entered == "entered digits/preactresnet-small/mixup/seed0"
    assert recorded.startswith("tiny: 2 of 4 cells are recorded")
    found, missing, refused = grids.recorded("tiny")
    assert ([cell.dataset for cell in missing], refused) == (["absent"] * 2, [])
    nothing = record(10)
    assert nothing.returncode == 0
    assert nothing.stdout.splitlines()[1].startswith("tiny: 2 of 4 cells are recorded")
    assert all(record.weights() for record in found)
