"""Record a grid: run the cells that its ledger lacks until the time is over, and enter what has finished.

python -m tools.record GRID MINUTES [--cores N]

Call it again and it goes on where it stopped. Snakemake runs the cells, in the order of experiments.yml.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from mmbook import grids, ledger
from mmlib.experiments import runs
from mmlib.experiments.training.checkpoints import Checkpoints

RUNS, LEDGER, LOGS = Path("runs"), Path("book/results"), Path("build/logs")


def enter_finished(grid: str) -> None:
    """Enter the runs that have finished since."""
    content = grids.read()[grid]
    kept = {"embeddings": content.get("embeddings", True), "weights": content.get("weights", False)}
    for cell in grids.cells(grid):
        folder = RUNS / grid / cell.place
        if (folder / "metrics.json").exists() and not (LEDGER / grid / cell.place.with_suffix(".json")).exists():
            ledger.enter(runs.read(folder), LEDGER / grid, **kept)
            print(f"entered {cell.place}", flush=True)


def run(grid: str, cells: list[grids.Cell], deadline: float, cores: str) -> None:
    """Hand the cells to Snakemake until the deadline, seconds since 1970; what it cannot finish goes on next time.

    Raises:
        RuntimeError: Snakemake did not start a single cell, with its last words.
    """
    since = time.time()
    targets = [str(RUNS / grid / cell.place / "metrics.json") for cell in cells]
    # No lock of the whole folder, which a kill would leave behind: a cell's folder has its own.
    options = ["--cores", cores, "--keep-going", "--rerun-incomplete", "--nolock"]
    command = ["snakemake", *targets, *options, "--config", f"deadline={deadline:.0f}"]
    log = LOGS / grid / "snakemake.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as words, subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT) as driver:
        while driver.poll() is None:
            time.sleep(1)
            enter_finished(grid)  # at once: who kills this command keeps what has finished
    began = any(path.stat().st_mtime >= since for path in (LOGS / grid).glob("*.log"))
    if driver.returncode and not began and since < deadline:
        raise RuntimeError("snakemake ran no cell: " + " ".join(log.read_text().split())[-500:])


def state(grid: str, cell: grids.Cell, since: float) -> str:
    """How far a cell without a record has come; one that failed is marked."""
    log = LOGS / grid / f"{'-'.join(cell.place.parts)}.log"
    lines = log.read_text().strip().splitlines() if log.exists() and log.stat().st_mtime >= since else []
    failed = lines and not any("max_minutes is" in line for line in lines)
    held = Checkpoints(RUNS / grid / cell.place).load()
    done = f"{len(held['history']) if held else 0} of {cell.config.epochs} epochs"
    return f"{cell.place}: {done}" + (f"; FAILED: {lines[-1]} ({log})" if failed else "")


def main(arguments: list[str]) -> int:
    """Run, enter, report; 1 where a cell failed. Cells whose data are not there are skipped, which is no failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--cores", default="all")
    given = parser.parse_args(arguments)
    start = time.time()
    grids.cells(given.grid)  # an unknown grid ends here
    enter_finished(given.grid)
    missing = grids.recorded(given.grid, LEDGER).missing
    skipped = grids.lacking(missing)
    for dataset, reason in skipped.items():
        count = sum(cell.dataset == dataset for cell in missing)
        print(f"skipped {count} cells of {dataset}: {reason}; book/run.md, Data sets, says how to get it", flush=True)
    if cells := [cell for cell in missing if cell.dataset not in skipped]:
        run(given.grid, cells, start + 60 * given.minutes, given.cores)
    found, missing, refused = grids.recorded(given.grid, LEDGER)
    print(f"{given.grid}: {len(found)} of {len(found) + len(missing)} cells are recorded in {LEDGER / given.grid}")
    lines = [state(given.grid, cell, start) for cell in missing]
    print("\n".join(refused + [line for line in lines if "FAILED" in line or ": 0 of" not in line]))
    return int(any("FAILED" in line for line in lines))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"record: {error}")
