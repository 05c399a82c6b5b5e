"""Data copied to a machine's own disk: once, whole, and not without room."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmbook.grids import Cell
from tools import stage

ROOT = Path(__file__).parents[1]


@pytest.fixture
def source(tmp_path):
    for k in range(3):
        (tmp_path / "data" / "set" / "train" / f"class{k}").mkdir(parents=True)
        (tmp_path / "data" / "set" / "train" / f"class{k}" / "0.png").write_bytes(bytes(300_000))
    return tmp_path / "data" / "set"


def start(source, storage, words, **more):
    env = os.environ | {"PYTHONPATH": str(ROOT), "NODE_STORAGE": storage} | more
    command = [sys.executable, "-m", "tools.stage", str(source), "sh", "-c", words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_commands_at_the_same_time_copy_once_and_all_find_the_whole(source, tmp_path):
    """A slow `cp` says when it is called; a variable in the name is that of the machine."""
    slow = tmp_path / "bin" / "cp"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\necho called >> {tmp_path}/calls; sleep 1; exec {shutil.which("cp")} "$@"\n')
    slow.chmod(0o755)
    more = {"PATH": f"{slow.parent}:{os.environ['PATH']}", "HERE": str(tmp_path / "disk")}
    words = "find @staged -type f | wc -l; echo @staged"
    running = [start(source, "$HERE", words, **more) for _ in range(4)]
    said = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    ((count, place),) = {tuple(out.split()) for out, _ in said}
    assert count == "3"
    assert Path(place).name == "set"  # a record has this name
    assert Path(place).is_relative_to(tmp_path / "disk")
    assert (tmp_path / "calls").read_text() == "called\n"


def test_without_a_place_the_source_itself_is_read(source):
    assert start(source, "", "echo @staged/train").communicate(timeout=60) == (f"{source}/train\n", "")


def test_half_a_copy_is_made_anew_and_a_changed_source_copied_again(source, tmp_path):
    copy = stage.copy_of(source, tmp_path)
    home = copy.parent
    shutil.rmtree(copy / "train" / "class0")
    home.rename(f"{home}.partial")  # as of a killed copy
    assert stage.copy_of(source, tmp_path) == copy
    assert (copy / "train" / "class0" / "0.png").stat().st_size == 300_000
    assert not Path(f"{home}.partial").exists()
    (source / "train" / "class3").mkdir()
    other = stage.copy_of(source, tmp_path)
    assert other != copy
    assert (other / "train" / "class3").is_dir()


def test_too_little_room_is_one_line(source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=500k", "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk takes root")
    try:
        process = start(source, str(disk), "echo begun")
        said = process.communicate(timeout=60)
        left = list(disk.glob("*/*/*"))
    finally:
        subprocess.run(["umount", disk], check=True)
    assert (process.returncode, said[0]) == (1, "")
    assert (
        said[1]
        == f"OSError: {source} takes 1 MiB, and NODE_STORAGE has 0: {disk}/mmlib-data-{stage.getpass.getuser()}\n"
    )
    assert not left


def test_a_source_that_is_not_there_is_one_line(tmp_path):
    process = start(tmp_path / "absent", str(tmp_path), "echo begun")
    assert process.communicate(timeout=60)[1].startswith("OSError: stage must name a file or folder, got ")
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("source", "marked"),
    [
        ("data", {"root": "@staged", "dataset": "@staged/imagenet"}),
        ("data/imagenet/", {"dataset": "@staged"}),
        ("elsewhere", {}),
    ],
)
def test_what_lies_in_the_source_is_read_from_the_copy(source, marked):
    assert stage.marked({"dataset": "data/imagenet", "epochs": 3}, source) == marked


def test_a_source_that_holds_nothing_of_the_cell_is_refused():
    wanted = "stage must be root 'data', dataset 'digits' or above, got 'elsewhere'"
    with pytest.raises(ValueError, match=wanted):
        Cell("tiny", "digits", "erm", 0, {"dataset": "digits"}, stage="elsewhere")
    assert Cell("tiny", "digits", "erm", 0, {"dataset": "digits"}, stage="data").stage == "data"


def test_processes_are_spread_evenly_over_nodes():
    with pytest.raises(ValueError, match="processes must be a multiple of the 3 nodes, got 8"):
        Cell("tiny", "digits", "erm", 0, {"dataset": "digits"}, processes=8, nodes=3)
    cell = Cell("tiny", "digits", "erm", 0, {"dataset": "digits", "workers": 7}, processes=8, nodes=2)
    assert cell.cores == 32
