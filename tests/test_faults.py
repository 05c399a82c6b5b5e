"""Faults at the command line: one line that names what is wrong, exit code 1, and nothing half-written."""

import os
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlib.experiments.arguments import to_arguments

pytestmark = pytest.mark.usefixtures("unchecked")  # the program's own errors, as a user meets them


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
    settings = {"epochs": 1, "method": "erm", "threads": 1, "attacked_per_class": 0, "out_sets": []} | settings
    monkeypatch.setattr(sys, "argv", ["mmlib.experiments", *to_arguments(settings)])
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
