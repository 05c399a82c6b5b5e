"""Runs of other machines: what fits its cell is entered, everything else refused with a line, and ledgers merge."""

import json
import shutil

import pytest

from mmbook import grids, ledger
from mmlib.experiments import data, runs
from mmlib.experiments.evaluation.suite import evaluate
from tests.clones import SETTINGS, make_clone
from tools import enter

VARIANTS = {"erm": {"method": "erm", "epochs": 1}, "mixup": {"method": "mixup", "epochs": 1}}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    clone = make_clone(tmp_path / "clone", VARIANTS)
    monkeypatch.chdir(clone)
    return clone


@pytest.fixture
def foreign(clone, tmp_path):
    """The finished run folders of both cells, as another machine leaves them."""
    for cell in grids.cells("tiny"):
        dataset = data.load("digits")
        folder = tmp_path / "scratch" / "tiny" / cell.path
        run = runs.load_or_train(cell.config, dataset, folder)
        runs.save_run(folder, run, *evaluate(run.classifier, dataset, attacked_per_class=0, out_sets=[]))
    return tmp_path / "scratch"


def test_run_folders_and_ledgers_are_entered_once(clone, foreign, tmp_path, capsys):
    assert SETTINGS["precision"] == "float32"
    erm, mixup = (cell.path for cell in grids.cells("tiny"))
    assert enter.main([str(foreign / "tiny" / erm)]) == 0
    assert [record.path for record in grids.grid_records("tiny").records] == [erm]
    assert enter.main([str(foreign)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 entered, 1 there already, 0 refused"
    records, missing, rejected = grids.grid_records("tiny")
    assert (missing, rejected) == ([], [])
    assert all(record.embeddings() for record in records)

    other = tmp_path / "other" / "results"
    shutil.move(clone / "book" / "results", other)
    (other / "tiny" / mixup.with_suffix(".json")).rename(tmp_path / "kept.json")
    assert enter.main([str(other)]) == 0
    assert capsys.readouterr().out == "1 entered, 0 there already, 0 refused\n"
    place = other / "tiny" / mixup.with_suffix(".json")
    (tmp_path / "kept.json").rename(place)
    assert enter.main([str(other)]) == 0
    assert capsys.readouterr().out == "1 entered, 1 there already, 0 refused\n"
    ours = clone / "book" / "results" / "tiny" / mixup.with_suffix(".json")
    assert ours.read_bytes() == place.read_bytes()
    assert len(grids.grid_records("tiny").records) == 2


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def reconfigure(run, **changes):
    """Give a run folder the configuration of another run, with its digest."""
    config = runs.read_json(run / "config.json") | changes
    del config["digest"]
    runs.write_json(run / "config.json", config | {"digest": runs.checksum(config)})


def sign(path, part, **changes):
    """Edit a record as somebody would who knows how its checksums are made."""
    content = ledger.read_verified(path)
    content[part] |= changes
    config = {name: value for name, value in content["config"].items() if name != "digest"}
    content["config"]["digest"] = runs.checksum(config)
    runs.write_json(path, content | {"checksum": runs.checksum(content)})


RUN_DAMAGES = {
    "another rate": (lambda run: reconfigure(run, lr=0.3), "lr is 0.3, the grid has 0.1"),
    "options": (lambda run: reconfigure(run, options={"alpha": 2.0}), "options is {'alpha': 2.0}, the grid has {}"),
    "edited to fit": (lambda run: edit(run / "config.json", digest="0" * 16), "that does not match its digest"),
    "no number": (lambda run: edit(run / "metrics.json", accuracy=None), "must be a finite number, got None"),
    "half a file": (lambda run: (run / "environment.json").write_text("{"), "must hold a JSON object"),
    "no environment": (lambda run: (run / "environment.json").unlink(), "No such file or directory"),
    "no place": (lambda run: run.rename(run.parents[1] / "other"), "must end in <dataset>/<model>"),
}
RECORD_DAMAGES = {
    "edited": (lambda record: edit(record, metrics={}), "does not match its checksum"),
    "another rate": (lambda record: sign(record, "config", lr=0.3), "lr is 0.3, the grid has 0.1"),
    "other images": (lambda record: sign(record, "config", data="0" * 16), "data is '0000000000000000', digits is"),
    "processes": (lambda record: sign(record, "environment", processes=4), "processes is 4, the grid has 1"),
}


def assert_one_is_refused(folder, words, capsys):
    """Of the two runs in a folder mixup's is entered."""
    _, mixup = (cell.path for cell in grids.cells("tiny"))
    assert enter.main([str(folder)]) == 1
    refused, counts = capsys.readouterr().out.splitlines()
    assert refused.startswith(f"refused {folder}")
    assert words in refused
    assert counts == "1 entered, 0 there already, 1 refused"
    assert [found.path for found in grids.grid_records("tiny").records] == [mixup]
    assert not list((grids.project_root() / "book/results/tiny").rglob("erm/seed0*"))


@pytest.mark.parametrize("damage", RUN_DAMAGES)
def test_a_run_that_does_not_fit_is_refused_in_a_line(clone, foreign, capsys, damage):
    change, words = RUN_DAMAGES[damage]
    change(foreign / "tiny" / grids.cells("tiny")[0].path)
    assert_one_is_refused(foreign, words, capsys)


@pytest.mark.parametrize("damage", RECORD_DAMAGES)
def test_a_record_that_does_not_fit_is_refused_in_a_line(clone, foreign, tmp_path, capsys, damage):
    theirs = tmp_path / "theirs"
    assert enter.main([str(foreign), "--ledger", str(theirs)]) == 0
    capsys.readouterr()
    change, words = RECORD_DAMAGES[damage]
    change(theirs / "tiny" / grids.cells("tiny")[0].path.with_suffix(".json"))
    assert_one_is_refused(theirs, words, capsys)


def test_strangers_and_rivals_are_refused(clone, foreign, tmp_path, capsys):
    erm, _ = (cell.path for cell in grids.cells("tiny"))
    shutil.copytree(foreign / "tiny" / erm, tmp_path / "strangers" / "unknown" / erm)
    shutil.copytree(foreign / "tiny" / erm, tmp_path / "strangers" / "tiny" / erm.parents[1] / "new" / "seed0")
    assert enter.main([str(tmp_path / "strangers")]) == 1
    first, second, counts = capsys.readouterr().out.splitlines()
    assert first.endswith("the grid has no such cell")
    assert second.endswith("experiments.yml has no grid unknown")
    assert counts == "0 entered, 0 there already, 2 refused"
    assert enter.main([str(foreign)]) == 0
    edit(foreign / "tiny" / erm / "metrics.json", accuracy=99.0)
    assert enter.main([str(foreign)]) == 1
    assert "is another run of this cell; remove one of the two" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="must hold finished runs, and holds none"):
        enter.main([str(tmp_path / "nothing")])
