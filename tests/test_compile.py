"""Objectives under `torch.compile`: the loss and gradients of eager steps, and no step compiled anew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

METHODS = ["erm", "mixup", "multimix", "dense_multimix"]


def rows_of(name, *arguments):
    """What a script prints, a line of JSON each."""
    script = Path(__file__).with_name("scripts") / name
    paths = os.pathsep.join([str(script.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def compared():
    return {(row.pop("name"), row.pop("whole")): row for row in rows_of("compiled_steps.py", *METHODS)}


@pytest.mark.parametrize("whole", [False, True], ids=["objective", "step"])
@pytest.mark.parametrize("name", METHODS)
def test_a_compiled_step_is_the_eager_one(compared, name, whole):
    row = compared[name, whole]
    for differences in (row["loss"], row["gradient"], row["buffer"]):
        assert len(differences) == 6
        assert max(differences) < 1e-12
    first, graphs = row["branches"][:4], row["graphs"]
    assert sorted(first) == ([False, False, True, True] if "multimix" in name else [])
    assert graphs[0] > 0
    assert graphs[3] == graphs[-1]  # both branches were taken twice: all that comes is compiled


def test_losses_are_traced_without_a_graph_break():
    """On torch's operations; every one of them would end in an error at a break."""
    rows = rows_of("whole_graphs.py")
    assert len(rows) == 13
    for row in rows:
        assert max(row["loss"], row["gradients"]) < 1e-6, row


def test_a_gpu_starts_few_operations_for_a_compiled_loss():
    """Counted in the code that the compiler writes for a GPU; the dense loss with its attention and head."""
    calls = {row["name"]: row["calls"] for row in rows_of("launches.py")}
    assert {name: len(those) for name, those in calls.items()} == {"cross-entropy": 5, "plain": 13, "dense": 26}
    assert calls["plain"].count("extern_kernels.mm") == 3


def test_mini_batches_of_all_sizes_are_compiled_twice_at_most():
    """First for one size, then for any, as torch's own loss is."""
    assert {row["name"]: row["graphs"] for row in rows_of("batch_sizes.py")} == dict.fromkeys(
        ["cross-entropy", "plain", "total", "dense"], 2
    )
