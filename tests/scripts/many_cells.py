"""Train and evaluate small networks in one process; print its memory in MiB after sixteen of them, and at last.

python many_cells.py CELLS FOLDER
"""

import resource
import sys
from pathlib import Path

from mmlib.experiments.__main__ import main
from mmlib.experiments.arguments import to_arguments

METHODS = ("multimix", "mixup", "dense_multimix", "multimix_distill")
WARM_UP = 16  # cells, after which every method has allocated what it keeps


def resident_mebibytes() -> float:
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def train(cell: int, folder: Path) -> None:
    """Train a cell for one epoch and evaluate it."""
    settings = {"dataset": "digits", "method": METHODS[cell % len(METHODS)], "epochs": 1, "seed": cell}
    settings |= {"folder": str(folder / str(cell)), "attacked_per_class": 1, "out_sets": ["gaussian"], "threads": 1}
    main(to_arguments(settings))


if __name__ == "__main__":
    cells, place = int(sys.argv[1]), Path(sys.argv[2])
    for cell in range(WARM_UP):
        train(cell, place)
    before = resident_mebibytes()
    for cell in range(WARM_UP, cells):
        train(cell, place)
    print(before, resident_mebibytes())
