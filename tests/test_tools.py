"""What makes the site: the results table, digests of sources, links from one address."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers import make_record
from tools import audit, detect, digests, gpus, licences, links, mutate, preflight, record
from tools.digests import source_digest
from tools.results import results_table

ROOT = Path(__file__).parents[1]


def accurate(variant, seed, accuracy):
    numbers = {"accuracy": accuracy, "calibration_error": 4.0 - accuracy / 50, "alignment": 0.5, "uniformity": -2.0}
    return make_record(variant, seed, config={"method": variant}, metrics=numbers)


def test_results_table_is_mean_and_spread_with_the_best_of_most_seeds_in_bold():
    found = [accurate("erm", 0, 80.0), accurate("erm", 1, 84.0), accurate("mixup", 0, 90.0), accurate("mixup", 1, 90.0)]
    lines = results_table([*found, accurate("cutmix", 0, 99.0)]).splitlines()
    assert lines[2] == "| digits | ERM | 2 | 82.00 ± 2.83 | 2.36 ± 0.06 | **0.500** ± 0.000 | **-2.000** ± 0.000 |"
    means = "**90.00** ± 0.00 | **2.20** ± 0.00 | **0.500** ± 0.000 | **-2.000** ± 0.000"
    assert lines[3] == f"| digits | mixup | 2 | {means} |"
    assert lines[4] == "| digits | CutMix | 1 | 99.00 | 2.02 | **0.500** | **-2.000** |"  # as good as the best


def test_results_table_never_mixes_data_sets():
    other = dataclasses.replace(accurate("erm", 0, 10.0), dataset="shapes")
    assert "82.00" in results_table([accurate("erm", 0, 80.0), accurate("erm", 1, 84.0), other])


def test_digest_of_a_notebook_ignores_outputs_and_touching(tmp_path):
    path = tmp_path / "chapter.ipynb"
    shutil.copy(ROOT / "notebooks" / "05-one-run.ipynb", path)
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


def git(folder, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("tracked", [True, False], ids=["clone", "copy"])
def test_digest_of_sources_ignores_caches(tmp_path, monkeypatch, tracked):
    """What Python and numba leave beside the sources, in a clone and in a copy without git."""
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "mmlib"
    (package / "__pycache__").mkdir(parents=True)
    (package / "losses.py").write_text("n = 1\n")
    if tracked:
        git(tmp_path, "init")
        git(tmp_path, "add", ".")
    before = source_digest("mmlib")
    for name in ("_kernels.sampler-8.py311.nbi", "_kernels.sampler-8.py311.1.nbc", "losses.cpython-311.pyc"):
        (package / "__pycache__" / name).write_bytes(b"cache")
    (package / "stray.nbi").write_bytes(b"cache")
    assert source_digest("mmlib") == before
    assert digests.source_files("mmlib") == [Path("mmlib/losses.py")]
    (package / "losses.py").write_text("n = 2\n")
    assert source_digest("mmlib") != before


def test_files_that_git_does_not_track_are_no_sources_but_records_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "intro.md").touch()
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    before = source_digest("book"), digests.records_digest("book/results")
    (tmp_path / "book" / "results" / "seed0.json").write_text("{}")
    assert source_digest("book") == before[0]
    assert digests.records_digest("book/results") != before[1]


def test_every_source_of_this_repository_counts(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {path.as_posix() for path in digests.source_files("mmlib", "mmbook")}
    assert {"mmlib/losses.py", "mmlib/experiments/__init__.py", "mmbook/ledger.py"} <= names
    assert not any("__pycache__" in name for name in names)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("mutate nosuch", "mutate: modules must be modules of mmlib, such as metrics, got 'nosuch'"),
        ("results nowhere", "results: results must hold a finished run, got 'nowhere'; `make book` makes some"),
        ("stage nowhere", "OSError: command must be a program of this machine, got ''"),
        ("stage nowhere nosuch x", "OSError: command must be a program of this machine, got 'nosuch x'"),
        ("gpus 0", "OSError: command must be a program of this machine, got ''"),
        ("gpus 0 nosuch", "OSError: command must be a program of this machine, got 'nosuch'"),
        ("cell 1", "OSError: command must be a program of this machine, got ''"),
        ("record tiny", "record: {here}/experiments.yml does not exist; grids are read in a clone of the repository"),
        ("detect", "detect: {here}/detection.yml does not exist; grids are read in a clone of the repository"),
        ("links", "links: [Errno 2] No such file or directory: 'pyproject.toml'"),
        ("licences", "licences: [Errno 2] No such file or directory: 'requirements.lock'"),
    ],
)
def test_what_a_tool_cannot_do_is_one_line(tmp_path, command, line):
    """In a folder that is no clone."""
    name, *arguments = command.split()
    done = subprocess.run(
        [sys.executable, "-m", f"tools.{name}", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (1, line.format(here=tmp_path) + "\n")
    assert not list(tmp_path.iterdir())


def test_a_detector_without_objects_to_find_has_no_precision():
    assert detect.precision({"map": 12.345}) == "mAP 12.35 %"
    assert detect.precision({"map": None}) == "no mAP, for no test image has an object"


PYPROJECT = """[project]
name = "mmlib"

[project.urls]
"""
ADDRESS = 'Repository = "https://github.com/somebody/multimix"\n'


@pytest.fixture
def clone(tmp_path):
    """The files that show the address, freed from the one that this repository may have; without an address."""
    for name in ("README.md", "_config.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "05-one-run.ipynb", tmp_path / "notebooks")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    links.link(tmp_path)
    return tmp_path


def contents(clone):
    return {path.name: path.read_text() for path in clone.rglob("*.*") if path.is_file() and path.suffix != ".toml"}


def test_without_an_address_no_link_is_shown(clone):
    before = contents(clone)
    links_of_it = ("colab.research", "launch_buttons", "git clone")
    assert not any(word in text for text in before.values() for word in links_of_it)
    links.link(clone)
    assert contents(clone) == before


def test_an_address_reaches_every_place_and_leaves_again(clone):
    before = contents(clone)
    (clone / "pyproject.toml").write_text(PYPROJECT + ADDRESS)
    for _ in range(2):  # the second time changes nothing
        links.link(clone)
        linked = contents(clone)
        assert linked["README.md"].count("blob/main/notebooks/01-multimix.ipynb") == 1
        assert linked["05-one-run.ipynb"].count("somebody/multimix/blob/main/notebooks/05-one-run.ipynb") == 1
        clone_line = "!git clone --quiet --depth 1 https://github.com/somebody/multimix\\n"
        assert linked["05-one-run.ipynb"].count(clone_line) == 1
        assert linked["_config.yml"].count("url: https://github.com/somebody/multimix") == 1
    (clone / "pyproject.toml").write_text(PYPROJECT)
    links.link(clone)
    assert contents(clone) == before


def test_this_repository_shows_the_address_that_it_has(clone):
    """`make links` was run after the address was set or removed; true with and without one."""
    shutil.copy(ROOT / "pyproject.toml", clone)
    links.link(clone)
    for name, text in contents(clone).items():
        path = ROOT / "notebooks" / name if name.endswith(".ipynb") else ROOT / name
        assert path.read_text() == text


def test_an_address_of_another_form_is_refused(clone):
    (clone / "pyproject.toml").write_text(PYPROJECT + 'Repository = "github.com/somebody"\n')
    with pytest.raises(ValueError, match=r"project.urls.Repository must be https://.*, got 'github.com/somebody'"):
        links.link(clone)


def test_commands_on_gpus_never_share_one(tmp_path):
    """Three commands, two cards: the third waits for a card, and one that fails gives its card back."""
    script = """
    if [ -e on$CUDA_VISIBLE_DEVICES ]; then echo shared >> seen; fi
    echo "$CUDA_VISIBLE_DEVICES" >> seen; touch on$CUDA_VISIBLE_DEVICES; sleep 1; rm on$CUDA_VISIBLE_DEVICES; exit 1
    """
    command = [sys.executable, "-m", "tools.gpus", "1", "sh", "-c", script]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "3,5", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    running = [subprocess.Popen(command, cwd=tmp_path, env=env) for _ in range(3)]
    assert [process.wait() for process in running] == [1, 1, 1]
    seen = (tmp_path / "seen").read_text().split()
    assert len(seen) == 3
    assert set(seen) == {"3", "5"}


def test_a_job_of_slurm_keeps_the_gpus_that_it_was_given(tmp_path):
    """Every job of a cluster may call its card 0; they wait for nobody."""
    hold = "import time; from tools import gpus; gpus.occupy(['0'], 1); print(flush=True); time.sleep(60)"
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    show = [sys.executable, "-m", "tools.gpus", "1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]
    with subprocess.Popen([sys.executable, "-c", hold], env=env, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(show, env=env, timeout=3, check=False)
        job = subprocess.run(show, env=env | {"SLURM_JOB_ID": "7"}, capture_output=True, text=True, timeout=30)
        holder.kill()
    assert job.stdout == "0\n"


def test_gpus_are_occupied_all_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    assert gpus.occupy(["0", "1", "2"], 2) == ["0", "1"]
    assert gpus.occupy(["0", "1", "2"], 2) == []
    assert gpus.occupy(["0", "1", "2"], 1) == ["2"]


def test_a_python_too_old_is_named_before_anything_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert preflight.main() == 1
    assert capsys.readouterr().err.startswith("make: Python 3.11 or later is needed, and this is 3.9; `make PYTHON=")


@pytest.mark.parametrize("minutes", ["nan", "-1"])
@pytest.mark.parametrize(("tool", "before"), [(record, "tiny"), (detect, "--minutes")])
def test_minutes_that_are_no_length_of_time_are_refused(capsys, tool, before, minutes):
    """Nothing is later than NaN, so that nothing would ever end."""
    with pytest.raises(SystemExit):
        tool.main([before, f" {minutes}"])  # the space tells a negative number from an option
    assert f"minutes: must be a number >= 0, got ' {minutes}'" in capsys.readouterr().err


@pytest.mark.slow
def test_mutants_of_a_module_that_is_tested_wholly_are_killed():
    command = [sys.executable, "-m", "tools.mutate", "mixing", "--minutes", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = r"^mixing: (\d+) of (\d+) killed, of 29; 0 equivalent, 100\.0 % of the others$"
    killed, tried = map(int, re.search(said, done.stdout, re.MULTILINE).groups())
    assert 0 < killed == tried


@pytest.mark.slow
def test_words_for_a_modules_own_tests_are_in_names_of_tests():
    files = [f"tests/{name}.py" for name in mutate.METHODS]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [line.lower() for line in listed.splitlines() if "::" in line]
    for module, words in mutate.OWN.items():
        for word in words.split(" or "):
            assert any(word in name for name in names), f"{module}: {word}"


def test_equivalent_mutants_are_mutants_of_the_code_as_it_is():
    for module, reasons in yaml.safe_load(mutate.EQUIVALENT.read_text(encoding="utf-8")).items():
        names = {name for name, _ in mutate.mutants(mutate.source_of(module).read_text(encoding="utf-8"))}
        assert reasons.keys() <= names, f"{module}: {sorted(reasons.keys() - names)}"


ADVISORY = """id: PYSEC-2022-1
aliases: [CVE-2022-2]
published: 2022-11-26T02:15:00Z
affected:
- package: {name: other, ecosystem: PyPI}
  versions: ["4.1", "4.10"]
- package: {name: Typing.Extensions, ecosystem: PyPI}
  versions: ["4.0.0", 1.0-beta-of-sorts]
  ranges:
  - {type: GIT, events: [{introduced: "0"}]}
  - {type: ECOSYSTEM, events: [{introduced: "4.2"}, {fixed: "4.10"}, {introduced: "5"}, {last_affected: "5.1"}]}
"""


@pytest.mark.parametrize(
    ("version", "vulnerable"),
    [
        ("4.0", True),
        ("4.1", False),
        ("4.2", True),
        ("4.9", True),
        ("4.10", False),
        ("5.0.1", True),
        ("5.1", True),
        ("5.1+cpu", True),
        ("5.1.1", False),
    ],
)
def test_audit_names_pins_that_an_advisory_concerns(tmp_path, capsys, monkeypatch, version, vulnerable):
    folder, lock = tmp_path / "vulns" / "typing.extensions", tmp_path / "requirements.lock"
    folder.mkdir(parents=True)
    folder.joinpath("PYSEC-2022-1.yaml").write_text(ADVISORY)
    folder.joinpath("PYSEC-2022-3.yaml").write_text(ADVISORY + "withdrawn: 2023-01-01T00:00:00Z\n")
    lock.write_text(f"numpy==1.0\nTyping_Extensions=={version}\n")
    monkeypatch.setattr(sys, "argv", ["audit", str(tmp_path), "--lock", str(lock)])
    with pytest.raises(SystemExit) as ended:
        audit.main()
    out, err = capsys.readouterr()
    assert out == (f"Typing_Extensions {version}: PYSEC-2022-1 CVE-2022-2\n" if vulnerable else "")
    assert err == f"2 pins, 1 of them with advisories until 2022-11-26, {int(vulnerable)} vulnerable\n"
    assert ended.value.code == int(vulnerable)


def test_audit_refuses_a_folder_that_is_no_database(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["audit", str(tmp_path)])
    with pytest.raises(SystemExit):
        audit.main()
    assert f"database must be a folder with vulns/*/*.yaml in it, got {tmp_path}" in capsys.readouterr().err


def test_audit_leaves_a_range_that_it_cannot_compare_to_a_person():
    events = [{"introduced": "0"}, {"fixed": "0.2.0-n653"}]
    affected = {"package": {"name": "binderhub"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    assert audit.concerns({"affected": [affected]}, "binderhub", "1.0")


def test_a_line_that_is_no_pin_is_named():
    with pytest.raises(ValueError, match=r"^a lock's lines must be like .*, got 'numpy>=2'$"):
        licences.pins("torch==2.1\nnumpy>=2\n")
