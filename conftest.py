"""For tests, docstrings and notebooks alike: no network, and no progress bars, which are never twice the same."""

import os
import sys
from pathlib import Path

import pytest

GUARD = str(Path(__file__).parent / "tests" / "guard")
sys.path.append(GUARD)
import network_guard  # noqa: E402

os.environ["TQDM_DISABLE"] = "1"
# Kernels, workers and commands find it, too: Python imports the `sitecustomize` of that folder when it starts.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [GUARD, os.environ.get("PYTHONPATH")]))


@pytest.fixture(autouse=True)
def no_network():
    """Fail a test or an example that asks for another machine, even where a library swallows the refusal."""
    before = len(network_guard.attempts)
    yield
    assert network_guard.attempts[before:] == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Compare the pictures of a notebook's cell, too, once nbval has compared its texts.

    A cell with the tag `x86-64` has these outputs on processors of that kind alone, and on others it is only run.
    """
    cell = getattr(item, "cell", None)  # only nbval's items have one
    if cell and "x86-64" in cell.metadata.get("tags", ()):
        from mmlib.experiments.processor import is_x86_64

        item.options["check"] &= is_x86_64()
    result = yield
    outputs = getattr(item, "test_outputs", None)
    if outputs is not None and item.options["check"] and item.cell.execution_count is not None:
        from tests import figures

        stored, new = figures.pictures(item.cell.outputs), figures.pictures(outputs)
        folder, name = item.config.rootpath / "build" / "figures", f"{item.path.stem}-cell{item.cell_num}"
        if lines := figures.compare(stored, new, folder, name):
            item.raise_cell_error("Cell figures differ", "\n".join(lines))
    return result
