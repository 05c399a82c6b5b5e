"""What was run: records, as the folds beneath figures and verdicts show them, and parameters at a chapter's end."""

import html
import json
import re
import shlex
import shutil
import types

import pandas as pd
import pytest

from mmbook import ledger, notebook, provenance, schedules
from mmbook.detection.__main__ import parse
from mmbook.provenance import describe_record, fold, fold_of_records, group_records, record_files, show_records
from mmlib.experiments.runs import checksum, write_json
from tools import landing

ROOT = notebook.project_root()
RECORD = ROOT / "book/results/digits/digits/preactresnet-small/multimix/seed0.json"
DETECTOR = ROOT / "book/results/detection/canvas/preactresnet-small/ssd/erm/seed0.json"


@pytest.fixture
def namespace(monkeypatch):
    module = types.ModuleType("chapter_under_test")
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    source = 'n: int = 10  # mixtures\nname: str = "a # b"  # of <it>\nplain: int = 3'
    exec(source, module.__dict__)
    module.__dict__["In"] = ["", source]
    return module.__dict__


def test_parameters_come_with_their_values_and_explanations(namespace):
    namespace["n"] = 20
    found = [("n", 20, "mixtures"), ("name", "a # b", "of <it>"), ("plain", 3, "")]
    assert notebook.parameters(namespace) == found


def test_record_is_described_from_its_file():
    content = json.loads(RECORD.read_text())
    row = describe_record(RECORD)
    assert row["file"] == RECORD.relative_to(ROOT).as_posix()
    assert row["checksum"] == content["checksum"]
    assert content["environment"]["commit"].startswith(row["commit"])
    assert (row["grid"], row["data"], row["variant"], row["seed"]) == ("digits", "digits", "multimix", 0)
    assert row["minutes"] == pytest.approx(content["environment"]["train_seconds"] / 60)


def test_files_of_records_are_those_that_they_were_read_from():
    runs, _ = ledger.find_runs(ROOT / "book/results/digits")
    assert RECORD in record_files(runs)
    assert len(record_files(runs)) == len(runs)


def test_fold_of_records_lists_them_and_says_how_one_is_run_again():
    other = RECORD.with_name("seed1.json")
    text = fold_of_records([RECORD, other])
    assert text.startswith("<details><summary>Records: 2 of digits</summary>")
    assert text.count("<details>") == text.count("</details>") == 1
    quickest = min((RECORD, other), key=lambda file: describe_record(file)["minutes"])
    assert f"<pre>python -m tools.rerun {quickest.relative_to(ROOT)}</pre>" in text
    assert 'tabindex="0" role="region" aria-label="file, checksum, commit"' in text
    for file in (RECORD, other):
        row = describe_record(file)
        assert f"<td>{row['file']}</td><td>{row['checksum']}</td><td>{row['commit']}</td>" in text
    assert not re.search(r"/(home|root|tmp|work)/", text)
    assert fold_of_records([]) == ""


def test_fold_of_detectors_says_how_one_that_starts_from_scratch_is_trained_again():
    assert "make detection" in fold_of_records([DETECTOR])
    scratch = DETECTOR.parents[1] / "scratch" / "seed0.json"
    text = fold_of_records([DETECTOR, scratch])
    arguments = shlex.split(html.unescape(re.search(r"<pre>python -m mmbook.detection (.*?)</pre>", text)[1]))
    config, _ = parse(arguments)
    recorded = json.loads(scratch.read_text())["config"]
    assert vars(config) | {"start": None} == {name: recorded[name] for name in vars(config)}


def test_records_are_shown_where_there_are_any(capsys):
    show_records([])
    assert capsys.readouterr().out == ""
    show_records([RECORD])
    assert "HTML" in capsys.readouterr().out


def test_fold_at_the_end_has_parameters_and_sums_records_up(namespace):
    text = fold(namespace, [RECORD, RECORD.with_name("seed1.json")])
    assert text.startswith("<details><summary>What was run</summary>")
    assert "of &lt;it&gt;" in text
    assert "The chapter read 2 records" in text
    assert "seed0.json" not in text
    assert "record" not in fold(namespace)


def test_a_record_that_does_not_say_its_kind_of_device_is_run_again_on_a_processor(tmp_path):
    content = {name: value for name, value in json.loads(RECORD.read_text()).items() if name != "checksum"}
    del content["environment"]["device_type"]
    old = tmp_path / RECORD.relative_to(ROOT)
    old.parent.mkdir(parents=True)
    write_json(old, content | {"checksum": checksum(content)})
    assert "seed0.json --device cpu</pre>" in fold_of_records([old])
    assert "--device" not in fold_of_records([RECORD])


def test_groups_count_records_variants_and_seeds():
    rows = pd.DataFrame([describe_record(RECORD), describe_record(RECORD.with_name("seed1.json"))])
    rows["commit"] = "one"
    (group,) = group_records(rows).to_dict("records")
    assert (group["records"], group["variants"], group["seeds"], group["epochs"]) == (2, 1, 2, "2,000")


def test_edited_record_is_refused(tmp_path):
    file = tmp_path / "seed0.json"
    shutil.copy(RECORD, file)
    file.write_text(file.read_text().replace('"lr":', '"lR":', 1))
    with pytest.raises(ValueError, match="does not match its checksum"):
        describe_record(file)


def test_a_record_of_an_installed_library_has_no_commit(tmp_path):
    content = json.loads(RECORD.read_text())
    del content["checksum"]
    content["environment"]["commit"] = None
    file = tmp_path / "seed0.json"
    write_json(file, content | {"checksum": checksum(content)})
    assert describe_record(file)["commit"] == "no commit"


def test_the_landing_page_leads_to_every_record_that_its_findings_are_of(tmp_path):
    landing.write_parts(tmp_path, ROOT / "book" / "results" / "digits")
    text = (tmp_path / "records.html").read_text(encoding="utf-8")
    runs = [run for of in schedules.GRIDS for run in schedules.scheduled_records(dataset=of)[0]]
    files = [file.relative_to(ROOT).as_posix() for file in provenance.record_files(runs)]
    assert len(files) > 400
    assert all(f"<td>{file}</td>" in text for file in files)
    assert re.search(r"<pre>python -m tools.rerun (\S+)</pre>", text)[1] in files
    assert text.startswith("<details")
