"""Many cells in one process hold no more memory than a few."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "many_cells.py"


@pytest.mark.slow
@pytest.mark.faults
def test_memory_does_not_grow_with_the_number_of_cells(tmp_path):
    """`make test-faults` trains 200 cells."""
    cells = int(os.environ.get("CELLS", "30"))
    done = subprocess.run([sys.executable, SCRIPT, str(cells), tmp_path], check=True, capture_output=True, text=True)
    before, after = map(float, done.stdout.split()[-2:])
    assert before > 100  # torch alone takes more
    assert after - before < 0.02 * (cells - 16) + 5  # MiB; the embeddings of one test set alone have 0.4
