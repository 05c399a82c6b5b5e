"""Notebooks as papermill and people meet them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(path, tag):
    return [cell for cell in json.loads(path.read_text())["cells"] if tag in cell["metadata"].get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_typed_and_explained(path):
    (cell,) = cells(path, "parameters")
    for line in cell["source"]:
        name, rest = line.split(":", 1)
        assert name.isidentifier(), line
        assert " = " in rest, line
        assert "  # " in rest, line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_checked_right_after_their_cell(path):
    code = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert "find_spec" in code[0]
    assert '"mmbook", "mmlib"' in code[0]
    assert "check_parameters(globals())" in code[2]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_carries_no_widgets_errors_or_paths_of_a_machine(path):
    notebook = json.loads(path.read_text())
    assert "widgets" not in notebook["metadata"]
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert outputs
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    texts = json.dumps([{k: v for k, v in output.items() if k != "data"} for output in outputs])
    assert str(Path.home()) not in texts
    assert "/tmp" not in texts


def test_wrong_parameter_stops_papermill_before_training(tmp_path):
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "papermill",
        "-k",
        "python3",
        "--no-progress-bar",
        NOTEBOOKS[3],
        tmp_path / "out.ipynb",
    ]
    done = subprocess.run(
        [*map(str, command), "-p", "methd", "erm", "-p", "folder", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert "ValueError: methd is no parameter of this notebook; it takes dataset, model, method" in done.stderr
    assert not folder.exists()
