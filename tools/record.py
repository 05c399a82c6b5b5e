"""Run a grid: the cells that its ledger lacks, each entered into the ledger as soon as it has finished.

python -m tools.record GRID [MINUTES] [--cores N] [--profile FOLDER] [--details]

Called again, it continues where it stopped, however it was stopped. Snakemake runs the cells, in the order of
experiments.yml; `--profile profiles/slurm` lets it hand them to a cluster.
"""

import argparse
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmbook import grids, ledger, progress
from mmlib.experiments.arguments import non_negative
from tools import jobs

RUNS, LEDGER = Path("runs"), Path("book/results")
FOREVER = 2**33  # seconds since 1970


def add_finished(cells: list[grids.Cell]) -> None:
    """Add the finished runs of cells that are not in the ledger yet."""
    for cell in cells:
        folder, path = RUNS / cell.grid / cell.path, cell.path.with_suffix(".json")
        if (folder / "metrics.json").exists() and not (LEDGER / cell.grid / path).exists():
            kept = grids.load_grids()[cell.grid]
            embeddings, weights = kept.get("embeddings", True), kept.get("weights", False)
            ledger.add(ledger.load_folder(folder), LEDGER / cell.grid, embeddings=embeddings, weights=weights)
            jobs.say(f"added {cell.path}")


@contextmanager
def entering(cells: list[grids.Cell]) -> Iterator[None]:
    """Enter runs as they finish: whoever kills this command keeps what has finished."""
    ended = threading.Event()

    def enter() -> None:
        while not ended.wait(1):
            add_finished(cells)

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        add_finished(cells)


def run(cells: list[grids.Cell], deadline: float, options: list[str], *, details: bool) -> None:
    """Let Snakemake run the cells until the deadline, in seconds since 1970; unfinished cells resume next time.

    Args:
        options: of Snakemake, such as how many cells run at a time.
        details: whether to show what Snakemake says.

    Raises:
        RuntimeError: another process runs cells of one of the grids in this folder.
    """
    targets = [str(RUNS / cell.grid / cell.path / "metrics.json") for cell in cells]
    with jobs.alone(*{f"grid {cell.grid}" for cell in cells}), entering(cells):
        jobs.run_snakemake(targets, [*options, "--config", f"deadline={deadline:.0f}"], details=details)


def main(arguments: list[str]) -> int:
    """Run, add, report; return 1 where a cell failed. A cell whose data are missing is skipped, which is no failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", help="a name in experiments.yml")
    parser.add_argument(
        "minutes", type=non_negative, nargs="?", default=math.inf, help="after which no cell starts or goes on"
    )
    parser.add_argument("--cores", default="all", help="how many runs at a time on this machine; on GPUs one on each")
    parser.add_argument("--profile", help="of Snakemake, such as profiles/slurm, which runs the cells on a cluster")
    parser.add_argument("--details", action="store_true", help="show what Snakemake says, and no line that moves")
    given = parser.parse_args(arguments)
    deadline = min(time.time() + 60 * given.minutes, FOREVER)
    add_finished(grids.cells(given.grid))
    records, missing, rejected = grids.grid_records(given.grid, LEDGER)
    skipped = grids.missing_datasets(missing)
    for dataset, reason in skipped.items():
        count = sum(cell.dataset == dataset for cell in missing)
        print(f"skipped {count} cells of {dataset}: {reason}; book/run.md, Data sets, says how to get it", flush=True)
    wanted = [cell for cell in missing if cell.dataset not in skipped]
    if not given.profile and (spread := [cell for cell in wanted if cell.nodes > 1]):
        raise ValueError(f"cells of {spread[0].nodes} nodes must run through Slurm: --profile profiles/slurm, got none")
    if wanted:
        options = ["--profile", given.profile] if given.profile else ["--cores", given.cores]
        run(wanted, deadline, options, details=given.details)
        records, missing, rejected = grids.grid_records(given.grid, LEDGER)
    print(f"{given.grid}: {len(records)} of {len(records) + len(missing)} cells are recorded in {LEDGER}")
    unrecorded = {cell.path for cell in missing}
    rest = [progress.cell_progress(cell, Path()) for cell in wanted if cell.path in unrecorded]
    told = [f"{cell.state} {cell}" for cell in rest if cell.state != progress.MISSING]
    print(*rejected, *told, sep="\n", end="\n" if rejected or told else "")
    # What the deadline has stopped is no failure.
    return int(any(cell.state == progress.FAILED or time.time() < deadline for cell in rest))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"record: {error}")
