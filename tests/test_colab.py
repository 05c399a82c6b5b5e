"""A notebook opened alone, as on Colab: with torch, torchvision, matplotlib and Jupyter, and nothing of the book."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.clones import ROOT, copy_tracked
from tools import links, preflight

ADDRESS = "https://github.com/somebody/book"
THERE = ("torch", "torchvision", "matplotlib", "ipykernel", "nbconvert")
EXECUTE = ("-m", "nbconvert", "--to", "notebook", "--execute", "--allow-errors", "--output", "out.ipynb")


def with_dependencies(names: tuple[str, ...]) -> set[str]:
    """Names of installed distributions and of all that they need here, by way of extras too."""
    found, left = set(), [(name, "") for name in names]
    while left:
        name, extra = left.pop()
        if (name, extra) not in found:
            found.add((name, extra))
            for of in map(Requirement, importlib.metadata.requires(name) or []):
                if of.marker is None or of.marker.evaluate({"extra": extra}):
                    left += [(of.name, asked) for asked in ("", *of.extras)]
    return {name for name, _ in found}


def bare_environment(folder: Path) -> Path:
    """A new environment with links to the files of `THERE` and what it needs; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    for name in with_dependencies(THERE):
        distribution = importlib.metadata.distribution(name)
        for entry in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            source = Path(str(distribution.locate_file(entry))).resolve()
            if source.exists() and not (packages / entry).exists():
                (packages / entry).symlink_to(source)
    return python


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A bare environment, a folder with chapter 6 alone in it, and an address that leads to a copy of this book."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH")  # the guard against the network is on it, and pip asks an index
        if not preflight.index_answers():
            pytest.skip("pip reaches no package index, and the first cell of a notebook installs from one")
    folder = tmp_path_factory.mktemp("colab")
    origin = copy_tracked(folder / "origin")
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "The book"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    content = folder / "content"
    content.mkdir()
    shutil.copy(ROOT / "notebooks" / "06-compare-methods.ipynb", content / "chapter.ipynb")
    links.link_notebook(content / "chapter.ipynb", ADDRESS)
    redirect = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf"}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return bare_environment(folder / "venv"), content, env | redirect | {"GIT_CONFIG_VALUE_0": ADDRESS}


@pytest.mark.slow
def test_a_chapter_opened_alone_fetches_the_book_and_runs(colab):
    python, content, env = colab
    versions = [python, "-c", "import torch; print(torch.__version__, torch.__file__)"]
    before = subprocess.run(versions, check=True, capture_output=True, text=True, env=env).stdout
    assert subprocess.run([python, "-c", "import mmlib"], cwd=content, env=env, capture_output=True).returncode  # bare
    subprocess.run([python, *EXECUTE, "chapter.ipynb"], cwd=content, env=env, check=True, capture_output=True)
    cells = json.loads((content / "out.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2  # its figures, drawn from the records
    assert subprocess.run(versions, check=True, capture_output=True, text=True, env=env).stdout == before
