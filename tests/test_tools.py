"""What makes the site: the results table, digests of sources, links from one address."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import mmlib.experiments.__main__
from mmbook import ledger
from mmlib.experiments import runs
from mmlib.experiments.runs.reader import Record
from tools import links, rerun
from tools.chapters import source_digest
from tools.results import results_table

ROOT = Path(__file__).parents[1]


def record(variant, seed, accuracy):
    numbers = {"accuracy": accuracy, "calibration_error": 4.0 - accuracy / 50, "alignment": 0.5, "uniformity": -2.0}
    return Record("digits", "net", variant, seed, {"method": variant}, numbers, [], {}, Path(), Path())


def test_results_table_is_mean_and_spread_with_the_best_in_bold():
    found = [record("erm", 0, 80.0), record("erm", 1, 84.0), record("mixup", 0, 90.0)]
    lines = results_table(found).splitlines()
    assert lines[2] == "| digits | erm | 2 | 82.00 ± 2.83 | 2.36 ± 0.06 | **0.500** ± 0.000 | **-2.000** ± 0.000 |"
    assert lines[3] == "| digits | mixup | 1 | **90.00** | **2.20** | **0.500** | **-2.000** |"


def test_results_table_never_mixes_data_sets():
    other = dataclasses.replace(record("erm", 0, 10.0), dataset="shapes")
    assert "82.00" in results_table([record("erm", 0, 80.0), record("erm", 1, 84.0), other])


def test_digest_of_a_notebook_ignores_outputs_and_touching(tmp_path):
    path = tmp_path / "chapter.ipynb"
    shutil.copy(ROOT / "notebooks" / "04-one-run.ipynb", path)
    before = source_digest(str(path))
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    path.write_text(json.dumps(notebook))
    assert source_digest(str(path)) == before
    notebook["cells"][0]["source"].append("More prose.")
    path.write_text(json.dumps(notebook))
    assert source_digest(str(path)) != before


@pytest.fixture
def clone(tmp_path):
    for name in ("pyproject.toml", "README.md", "_config.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "04-one-run.ipynb", tmp_path / "notebooks")
    return tmp_path


def contents(clone):
    return {path.name: path.read_text() for path in clone.rglob("*.*") if path.is_file() and path.suffix != ".toml"}


def set_address(clone, address):
    path = clone / "pyproject.toml"
    path.write_text(path.read_text().replace("[project.urls]", f'[project.urls]\nRepository = "{address}"'))


def test_without_an_address_no_link_is_shown(clone):
    before = contents(clone)
    links.link(clone)
    assert contents(clone) == before
    assert not any("colab.research" in text for text in before.values())


def test_an_address_reaches_every_place_and_leaves_again(clone):
    before, original = contents(clone), (clone / "pyproject.toml").read_text()
    set_address(clone, "https://github.com/somebody/multimix")
    for _ in range(2):  # the second time changes nothing
        links.link(clone)
        linked = contents(clone)
        assert linked["README.md"].count("blob/main/notebooks/01-multimix.ipynb") == 1
        assert linked["04-one-run.ipynb"].count("somebody/multimix/blob/main/notebooks/04-one-run.ipynb") == 1
        assert "mmlib[notebooks] @ git+https://github.com/somebody/multimix" in linked["04-one-run.ipynb"]
        assert linked["_config.yml"].count("url: https://github.com/somebody/multimix") == 1
    (clone / "pyproject.toml").write_text(original)
    links.link(clone)
    assert contents(clone) == before


def test_an_address_of_another_form_is_refused(clone):
    set_address(clone, "github.com/somebody")
    with pytest.raises(ValueError, match=r"project.urls.Repository is 'github.com/somebody'; it takes https"):
        links.link(clone)


def test_a_record_is_run_again_from_itself_alone(tmp_path, monkeypatch, capsys):
    run, held = tmp_path / "run" / "digits" / "preactresnet-small" / "few" / "seed3", tmp_path / "held"
    options = [
        "options={'num_mixtures': 20}",
        "epochs=2",
        "seed=3",
        "attacked_per_class=1",
        "out_sets=['gaussian']",
        "threads=1",
    ]
    mmlib.experiments.__main__.main([f"folder={run}", "dataset=digits", "method=multimix", *options])
    ledger.enter(runs.read(run), held)
    monkeypatch.setattr(rerun, "RUNS", tmp_path / "rerun")
    path = held / "digits" / "preactresnet-small" / "few" / "seed3.json"
    rerun.main([str(path)])
    printed = capsys.readouterr().out
    assert "all metrics are the same to the last digit" in printed
    accuracy = json.loads(path.read_text())["metrics"]["accuracy"]
    assert f"accuracy                {accuracy:12.4f}{accuracy:12.4f}     +0.0000" in printed
    other = runs.read(run)
    other.config["data"] = "0" * 16
    other.config["digest"] = runs.checksum(rerun.decided(other) | {"data": "0" * 16})
    ledger.enter(other, tmp_path / "other")
    monkeypatch.setattr(rerun, "RUNS", tmp_path / "nothing")
    with pytest.raises(ValueError, match="data: the record's fingerprint is 0000000000000000, here it is"):
        rerun.main([str(tmp_path / "other" / other.place) + ".json"])
    assert not (tmp_path / "nothing").exists()
    path.write_text(path.read_text().replace('"epochs": 2', '"epochs": 3'))
    with pytest.raises(ValueError, match="edited by hand"):
        rerun.main([str(path)])
