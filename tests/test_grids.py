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
def grid_file(tmp_path, monkeypatch):
    """A folder that passes for a clone, with a grid that takes seconds; grids and ledgers are read there."""
    (tmp_path / "mmlib").mkdir()
    (tmp_path / "mmlib" / "__init__.py").touch()
    write_grids(tmp_path, tiny=TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_grids(root, **grids):
    (root / "experiments.yml").write_text(yaml.safe_dump(grids, sort_keys=False))


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The part of the repository that the commands need: sources, and the one notebook that runs cells."""
    for name in ("mmbook", "mmlib", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "notebooks").mkdir()
    for name in ("Snakefile", "notebooks/05-one-run.ipynb"):
        shutil.copy(ROOT / name, tmp_path / name)
    content = yaml.safe_load((ROOT / "experiments.yml").read_text())
    write_grids(tmp_path, tiny=TINY, digits=content["digits"], embedded=content["embedded"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_cells_come_seed_by_seed_in_the_order_of_the_file(grid_file):
    cells = grids.cells("tiny")
    assert [str(cell.path) for cell in cells[:3]] == [
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
    with pytest.raises(ValueError, match=r"one of tiny \(experiments.yml\), got 'tinny'; did you mean tiny\?"):
        grids.cells("tinny")


@pytest.mark.parametrize("grid", list(yaml.safe_load((ROOT / "experiments.yml").read_text())))
def test_every_cell_of_every_grid_is_a_configuration(grid):
    cells = grids.cells(grid)
    assert len({cell.path for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.config.seed == cell.seed


def test_settings_are_crossed_and_variants_have_seeds_of_their_own(grid_file):
    tiny = {"seeds": [0, 1], "settings": {"model": "preactresnet-small"}, "datasets": {"digits": {}}}
    variants = {"erm": {"method": "erm"}, "mixup": {"method": "mixup", "seeds": [1, 2]}}
    write_grids(grid_file, tiny=tiny | {"cross": {"lr": [0.1, 0.3], "epochs": [2]}, "variants": variants})
    assert [(cell.variant, cell.seed, cell.config.lr, cell.config.epochs) for cell in grids.cells("tiny")] == [
        ("erm-lr0.1-epochs2", 0, 0.1, 2),
        ("erm-lr0.3-epochs2", 0, 0.3, 2),
        ("erm-lr0.1-epochs2", 1, 0.1, 2),
        ("mixup-lr0.1-epochs2", 1, 0.1, 2),
        ("erm-lr0.3-epochs2", 1, 0.3, 2),
        ("mixup-lr0.3-epochs2", 1, 0.3, 2),
        ("mixup-lr0.1-epochs2", 2, 0.1, 2),
        ("mixup-lr0.3-epochs2", 2, 0.3, 2),
    ]


@pytest.mark.slow
def test_a_grid_takes_cells_of_another_one_with_their_folder_and_record(grid_file):
    own = {"seeds": [0], "settings": TINY["settings"], "datasets": {"digits": {"epochs": 1}}}
    also = own | {"variants": {"mixup": {"method": "mixup"}}, "from": {"tiny": ["erm"]}}
    write_grids(grid_file, tiny=TINY, also=also)
    cells, (erm, *_) = grids.cells("also"), grids.cells("tiny")
    assert [(cell.grid, cell.variant) for cell in cells] == [("also", "mixup"), ("tiny", "erm"), ("tiny", "erm")]
    assert cells[1] == erm
    record_cell(erm, grid_file)
    records, missing, rejected = grids.grid_records("also")
    assert ([record.path for record in records], rejected) == ([erm.path], [])
    assert [cell.variant for cell in missing] == ["mixup", "erm"]


def test_two_cells_in_one_place_are_refused(grid_file):
    write_grids(grid_file, tiny=TINY, also=TINY | {"from": {"tiny": ["erm"]}})
    with pytest.raises(ValueError, match="grid also must have one cell for each path, got several for digits/preact"):
        grids.cells("also")


def test_a_long_history_is_shortened_and_a_short_one_kept():
    history = [
        {
            "epoch": k + 1,
            "lr": 0.1 / (k + 1),
            "loss": float(k),
            "seconds": 0.5,
            "validation_accuracy": 90.0 + k if (k + 1) % 70 == 0 else None,
        }
        for k in range(700)
    ]
    rows = ledger.thin_history(history)
    assert len(rows) == 100
    assert [row["epoch"] for row in rows] == list(range(7, 701, 7))
    assert [row["validation_accuracy"] for row in rows if row["validation_accuracy"]] == [
        row["validation_accuracy"] for row in history if row["validation_accuracy"]
    ]
    assert rows[1] == {"epoch": 14, "lr": 0.1 / 14, "loss": 10.0, "seconds": 3.5, "validation_accuracy": None}
    assert sum(row["seconds"] for row in rows) == 350.0
    assert ledger.thin_history(history[:100]) == history[:100]
    assert [row["epoch"] for row in ledger.thin_history(history[:3])] == [1, 2, 3]


def record_cell(cell, root, **changes):
    """Train the cell for real, with `changes` to its configuration, and add it to the ledger at its path."""
    dataset = data.load(cell.dataset, seed=cell.seed)
    folder = root / "runs" / cell.path
    run = runs.load_or_train(dataclasses.replace(cell.config, **changes), dataset, folder)
    runs.save_run(folder, run, *evaluate(run.classifier, dataset))
    ledger.add(ledger.load_folder(folder), root / "book" / "results" / "tiny")


def test_a_cell_of_several_processes_takes_a_run_of_as_many(grid_file):
    content = yaml.safe_load((grid_file / "experiments.yml").read_text())
    (erm, *_), tiny = grids.cells("tiny"), content["tiny"]
    record_cell(erm, grid_file)
    tiny["settings"] |= {"processes": 4}
    (grid_file / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    (four, *_) = grids.cells("tiny")
    assert (four.processes, four.parameters, four.config) == (4, erm.parameters, erm.config)
    assert grids.grid_records("tiny").rejected == [f"{erm.path} is left out: processes is 1, the grid has 4"]


def test_a_record_that_does_not_match_its_cell_is_listed_and_left_out(grid_file):
    erm, multimix, *others = grids.cells("tiny")
    assert grids.grid_records("tiny") == ([], [erm, multimix, *others], [])
    record_cell(erm, grid_file)
    record_cell(multimix, grid_file, options={"num_mixtures": 11})
    found, missing, rejected = grids.grid_records("tiny")
    assert [record.path for record in found] == [erm.path]
    assert missing == [multimix, *others]
    assert rejected == [
        f"{multimix.path} is left out: options is {{'num_mixtures': 11}}, the grid has {{'num_mixtures': 10}}"
    ]
    path = grid_file / "book" / "results" / "tiny" / erm.path.with_suffix(".json")
    path.write_text(path.read_text().replace('"nll"', '"nul"'))
    stranger = path.parents[1] / "stranger" / "seed0.json"
    stranger.parent.mkdir()
    content = json.loads((path.parents[1] / "multimix-n10" / "seed0.json").read_text())
    stranger.write_text(json.dumps(content))
    found, _, rejected = grids.grid_records("tiny")
    assert not found
    assert len(rejected) == 3
    assert any(
        "erm/seed0.json does not match its checksum: it was edited by hand: left out" in line for line in rejected
    )
    assert any("stranger/seed0 is left out: the grid has no such cell" in line for line in rejected)


def test_data_sets_that_are_not_there_are_named_before_anything_starts(grid_file, monkeypatch):
    from torchvision import datasets

    def unreachable(self):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR100, "download", unreachable)
    planned = {
        "cifar100": {"epochs": 1},
        "digits": {"epochs": 1, "out_sets": ["uniform", "shapes"]},
        "holed": {"dataset": "digits", "out_sets": ["uniform", "missing/LSUN"]},
    }
    write_grids(grid_file, tiny=TINY | {"datasets": planned})
    missing = grids.missing_datasets(grids.cells("tiny"))
    assert missing.keys() == {"cifar100", "holed"}
    assert "cifar100" in missing["cifar100"]
    assert "no network" in missing["cifar100"]
    assert "missing/LSUN" in missing["holed"]
    settings = TINY["settings"] | {"labelled_per_class": 1000}
    write_grids(grid_file, tiny=TINY | {"datasets": planned, "settings": settings})
    with pytest.raises(ValueError, match=r"labelled_per_class .*1000"):
        grids.missing_datasets([cell for cell in grids.cells("tiny") if cell.dataset == "digits"])


def environment(**more):
    """Snakemake, papermill and torchrun of this interpreter come first; `more` replaces other variables."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path} | more


@pytest.mark.slow
def test_a_gpu_runs_one_cell_at_a_time(clone):
    """Real Snakemake with cores to spare; what stands for papermill says when it runs and what it sees."""
    variants = {name: {"method": "erm", "device": "cuda"} for name in ("erm", "erm again")}
    write_grids(clone, tiny=TINY | {"variants": variants}, embedded=TINY)
    (clone / "bin").mkdir()
    stub = clone / "bin" / "papermill"
    begin, end = 'echo "begins on $CUDA_VISIBLE_DEVICES" >> story', 'touch "$(dirname "$5")/metrics.json"'
    stub.write_text(f"#!/bin/sh\n{begin}; sleep 1; echo ends >> story; {end}\n")
    stub.chmod(0o755)
    targets = [f"runs/tiny/{cell.path}/metrics.json" for cell in grids.cells("tiny")[:3]]
    env = environment(CUDA_VISIBLE_DEVICES="")
    env["PATH"] = os.pathsep.join([str(stub.parent), env["PATH"]])
    done = subprocess.run(["snakemake", "--cores", "4", *targets], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "story").read_text().splitlines() == ["begins on ", "ends"] * 3


def test_every_cell_on_gpus_says_how_many():
    assert {cell.gpus for cell in grids.cells("embedded")} == {0}
    assert {cell.gpus for cell in grids.cells("cifar100-resnet18")} == {1}
    assert {cell.gpus for cell in grids.cells("imagenet-resnet50")} == {8}


@pytest.mark.slow
def test_recording_goes_on_where_it_stopped(clone):
    """Real Snakemake, papermill and torchrun: no time, then a cell that cannot run, then the rest."""

    def record(minutes):
        command = [sys.executable, "-m", "tools.record", "tiny", str(minutes), "--cores", "2"]
        return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)

    def experiments(lr, **others):
        content = yaml.safe_load((clone / "experiments.yml").read_text())
        variants = {"erm": {"method": "erm", "processes": 2}, "mixup, wide": {"method": "mixup", "lr": lr}}
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
    assert "added digits/preactresnet-small/erm/seed0\n" in first.stdout
    assert "tiny: 1 of 2 cells are recorded" in first.stdout
    (record_of_two,) = grids.grid_records("tiny").records
    assert record_of_two.environment["processes"] == 2
    failed = "failed tiny/digits/preactresnet-small/mixup, wide/seed0: 0 of 2 epochs; FloatingPointError: the loss"
    assert failed in first.stdout
    experiments(lr=0.1, absent={"dataset": "data/absent", "epochs": 2, "lr": 0.1})
    second = record(10)
    assert second.returncode == 0, second.stdout + second.stderr
    skipped, *said = second.stdout.splitlines()
    assert skipped.startswith("skipped 2 cells of absent: ")
    assert "data/absent" in skipped
    assert skipped.endswith("; book/run.md, Data sets, says how to get it")
    assert "added digits/preactresnet-small/mixup, wide/seed0" in said
    assert said[-1].startswith("tiny: 2 of 4 cells are recorded")
    found, missing, rejected = grids.grid_records("tiny")
    assert ([cell.dataset for cell in missing], rejected) == (["absent"] * 2, [])
    nothing = record(10)
    assert nothing.returncode == 0
    assert nothing.stdout.splitlines()[1].startswith("tiny: 2 of 4 cells are recorded")
    assert all(record.weights() for record in found)
