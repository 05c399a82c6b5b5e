"""Faults at the command line: one line that names what is wrong, exit code 1, and nothing half-written."""

import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlib.experiments import runs
from mmlib.experiments.__main__ import main
from mmlib.experiments.arguments import to_arguments

# The program's own errors, as a user meets them.
pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.faults]


ROOT = Path(__file__).parents[1]
SETTINGS = {"epochs": 1, "method": "erm", "threads": 1, "attacked_per_class": 0, "out_sets": []}


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def arrays() -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    return {
        f"{part}_{what}": value
        for part in ("train", "test")
        for what, value in (("images", images), ("labels", np.arange(8) % 2))
    }


def run(monkeypatch, capsys, **settings) -> str:
    """Run the command, which must fail, and return the one line that it prints."""
    monkeypatch.setattr(sys, "argv", ["mmlib.experiments", *to_arguments(SETTINGS | settings)])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.delitem(sys.modules, "mmlib.experiments.__main__", raising=False)  # runpy warns of one that is there
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("mmlib.experiments", run_name="__main__", alter_sys=False)
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def cut(path):
    np.savez_compressed(path, **arrays())
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {
    "nothing": lambda path: path.write_bytes(b""),
    "cut off": cut,
    "a picture": lambda path: Image.new("RGB", (8, 8)).save(path, format="png"),
    "objects": lambda path: np.savez(path, **arrays() | {"class_names": np.array([Payload(path.parent / "ran")] * 2)}),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Payload(path.parent / "ran"))),
    "weights": lambda path: torch.save({"weights": torch.ones(3)}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_data_that_is_damaged(tmp_path, monkeypatch, capsys, damage):
    path = tmp_path / "mine.npz"
    DAMAGES[damage](path)
    line = run(monkeypatch, capsys, dataset=str(path), folder=str(tmp_path / "run"))
    assert line.startswith(f"mmlib: {path} must ")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.npz"]
    out = run(monkeypatch, capsys, dataset="digits", folder=str(tmp_path / "run"), out_sets=[str(path)])
    assert out.startswith(f"mmlib: {path} must ")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.npz"]


@pytest.mark.parametrize("method", ["erm", "multimix"])
def test_data_of_one_class_leave_no_folder(tmp_path, monkeypatch, capsys, method):
    labels = np.zeros(8, int)
    np.savez(tmp_path / "mine.npz", **arrays() | {"train_labels": labels, "test_labels": labels})
    line = run(monkeypatch, capsys, dataset=str(tmp_path / "mine.npz"), method=method, folder=str(tmp_path / "run"))
    assert line == "mmlib: dataset mine must have at least 2 classes to train on, got 1"
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").write_text("mine")
    for folder in (tmp_path / "run", tmp_path / "run" / "seed0"):
        assert str(tmp_path / "run") in run(monkeypatch, capsys, dataset="digits", folder=str(folder))
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_finished_run_whose_files_are_damaged(tmp_path, monkeypatch, capsys, content):
    for name in ("config.json", "metrics.json"):
        (tmp_path / name).write_bytes(content)
    line = run(monkeypatch, capsys, dataset="digits", folder=str(tmp_path))
    assert line.startswith(f"mmlib: {tmp_path}/config.json must hold a JSON object, and cannot be read: ")
    assert (tmp_path / "config.json").read_bytes() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "metrics.json"]


def test_a_loss_that_is_not_finite(tmp_path, monkeypatch, capsys):
    line = run(monkeypatch, capsys, dataset="digits", folder=str(tmp_path / "run"), epochs=3, lr=1e30)
    assert line.startswith("mmlib: the loss is ")
    assert not list((tmp_path / "run").glob("*.json"))


@pytest.fixture
def nobody():
    """The rights of a user who owns nothing, for root may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such rights")
def test_a_folder_that_is_read_only(tmp_path, monkeypatch, capsys, nobody):
    line = run(monkeypatch, capsys, dataset="digits", folder=str(tmp_path / "run"))
    assert line.startswith("mmlib: ")
    assert "Permission denied" in line
    assert str(tmp_path / "run") in line


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of pictures that runs of both kinds were trained on."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("train/ant", "train/bee", "test/ant", "test/bee"):
        (root / "pets" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "pets" / folder / "0.png")
    for size in (None, 8):
        settings = {"dataset": str(root / "pets"), "size": size, "epochs": 1, "method": "erm", "threads": 1}
        main(to_arguments(settings | {"folder": f"{root}/{size}", "attacked_per_class": 0, "out_sets": []}))
    return root / "pets"


@pytest.fixture(params=["set.npz", "pets/train/ant/0.png", "pets/train/ant", "pets"])
def unreadable(request, pets):
    """A data set in a folder that is open to everybody, and a file or folder of it that nobody may read.

    Training has imported what it needs before, for Python itself may lie where nobody may read it.
    """
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        root, hidden = Path(place), Path(place, request.param)
        np.savez(root / "set.npz", **arrays())
        shutil.copytree(pets, root / "pets")
        root.chmod(0o777)
        rights = hidden.stat().st_mode
        hidden.chmod(0)
        yield root / Path(request.param).parts[0], hidden
        hidden.chmod(rights)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such rights")
@pytest.mark.parametrize("size", [None, 8])
def test_data_that_may_not_be_read(monkeypatch, capsys, unreadable, nobody, size):
    dataset, hidden = unreadable
    size = None if dataset.suffix else size
    line = run(monkeypatch, capsys, dataset=str(dataset), folder=str(dataset.parent / "run"), size=size)
    assert line.startswith("mmlib: ")
    assert "Permission denied" in line
    assert str(hidden) in line
    assert not list(dataset.parent.glob("run/*"))


@contextmanager
def small_disk(size):
    """The limit of a file's size stands for the disk's."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such rights")
def test_a_checkpoint_that_may_not_be_read_is_left_where_it_is(monkeypatch, capsys, finished, request):
    """It may be whole, and of days; only what is damaged is passed over."""
    with tempfile.TemporaryDirectory() as place:  # for nobody may look into pytest's own folders
        folder = Path(place, "run")
        shutil.copytree(finished, folder)
        (folder / "metrics.json").unlink()
        for path, mode in ((Path(place), 0o755), (folder, 0o777), (folder / "checkpoint.pt", 0o000)):
            path.chmod(mode)
        request.getfixturevalue("nobody")
        line = run(monkeypatch, capsys, dataset="digits", folder=str(folder))
        assert line == f"mmlib: [Errno 13] Permission denied: '{folder}/checkpoint.pt'"
        if not os.getuid():
            os.seteuid(0)
        (folder / "checkpoint.pt").chmod(0o600)
        assert (folder / "checkpoint.pt").read_bytes() == (finished / "checkpoint.pt").read_bytes()
        assert not (folder / "checkpoint-previous.pt").exists()


def test_a_full_disk(tmp_path, monkeypatch, capsys):
    with small_disk(2**12):
        line = run(monkeypatch, capsys, dataset="digits", folder=str(tmp_path / "run"))
    assert line.startswith(f"mmlib: {tmp_path}/run/checkpoint.pt could not be written: ")
    assert list((tmp_path / "run").iterdir()) == []


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_disk_that_is_full_when_the_results_are_written(finished):
    """The training is not lost, and nothing half-written lies beside it."""
    for path in finished.iterdir():
        if not path.name.startswith("checkpoint"):
            path.unlink()
    before = files(finished)
    settings = SETTINGS | {"dataset": "digits", "folder": str(finished)}
    command = [sys.executable, "-m", "mmlib.experiments", *to_arguments(settings)]
    with small_disk(100):  # which the process inherits
        done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"mmlib: {finished}/config.json could not be written: File too large\n"
    assert files(finished) == before


def test_weights_that_do_not_fit_on_the_disk_leave_those_that_are_there(tmp_path):
    path = tmp_path / "w.pt"
    runs.write_weights(path, {"head.bias": torch.zeros(3)})
    before = files(tmp_path)
    with small_disk(100), pytest.raises(OSError, match=r"w\.pt could not be written: File too large"):
        runs.write_weights(path, {"head.bias": torch.ones(3)})
    assert files(tmp_path) == before


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A finished run of one epoch."""
    folder = tmp_path / "run"
    monkeypatch.setenv("TQDM_DISABLE", "1")
    main(to_arguments(SETTINGS | {"dataset": "digits", "folder": str(folder)}))
    return folder


def test_code_in_the_files_of_a_finished_run_is_never_run(tmp_path, monkeypatch, capsys, finished):
    bomb = pickle.dumps(Payload(tmp_path / "ran"), protocol=2)  # the one of torch
    (finished / "checkpoint.pt").write_bytes(bomb)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is not whole"):
        line = run(monkeypatch, capsys, dataset="digits", folder=str(finished))
    assert line.startswith(f"mmlib: folder {finished} holds a finished run without its checkpoint")
    (finished / "config.json").write_bytes(bomb)
    line = run(monkeypatch, capsys, dataset="digits", folder=str(finished))
    assert line.startswith(f"mmlib: {finished}/config.json must hold a JSON object, and cannot be read: ")
    assert not (tmp_path / "ran").exists()
    pickle.loads(bomb)
    assert (tmp_path / "ran").exists()  # it works where it is run


def test_a_finished_run_of_a_later_version(monkeypatch, capsys, finished):
    """It has a parameter that this version does not know, so that nothing says whether it is the same run."""
    config = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps(config | {"sharpness": 3}))
    line = run(monkeypatch, capsys, dataset="digits", folder=str(finished))
    assert line == f"mmlib: folder {finished} holds a finished run of another version, with sharpness 3"


def test_a_checkpoint_of_a_later_version(finished):
    """A run does not go on from it, says which code made it, and keeps it."""
    (finished / "metrics.json").unlink()
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    state["resume_identity"] |= {"code": "later", "sharpness": 3}
    torch.save(state | {"schedule": {}}, finished / "checkpoint.pt")
    before = (finished / "checkpoint.pt").read_bytes()
    settings = SETTINGS | {"dataset": "digits", "folder": str(finished)}
    command = [sys.executable, "-m", "mmlib.experiments", *to_arguments(settings)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    words = f"UserWarning: {finished}/checkpoint.pt was made with code 'later', not '"
    assert done.stderr.startswith(words)
    assert done.stderr.endswith("': skipped, and moved to checkpoint-of-another-run.pt by the next checkpoint\n")
    assert done.stderr.count("\n") == 1
    assert (finished / "checkpoint-of-another-run.pt").read_bytes() == before
    assert (finished / "metrics.json").exists()


def test_names_that_climb_out_of_a_folder_are_refused(tmp_path, monkeypatch, capsys):
    """A model or a method is a name, never a path; a data set is a path that is read and never written."""
    for parameter in ("model", "method"):
        monkeypatch.setattr(sys, "argv", ["mmlib.experiments", "--folder", "run", f"--{parameter}", "../../etc"])
        with pytest.raises(SystemExit) as stopped:
            main(sys.argv[1:])
        assert stopped.value.code == 2
        assert f"{parameter} must be " in capsys.readouterr().err
    line = run(monkeypatch, capsys, dataset="../../etc/passwd", folder=str(tmp_path / "run"))
    assert line.startswith("mmlib: dataset must be ")
    assert list(tmp_path.iterdir()) == []
