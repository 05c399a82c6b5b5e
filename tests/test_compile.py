"""Objectives under `torch.compile`: the loss and gradients of eager steps, and no step compiled anew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

METHODS = ["erm", "mixup", "multimix", "dense_multimix"]


@pytest.fixture(scope="module")
def compared():
    script = Path(__file__).with_name("scripts") / "compiled_steps.py"
    paths = os.pathsep.join([str(script.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, script, *METHODS], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    rows = map(json.loads, done.stdout.splitlines())
    return {(row.pop("name"), row.pop("whole")): row for row in rows}


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
