"""Record a grid: run the cells that its ledger lacks until the time is over, and add finished runs to the ledger.

python -m tools.record GRID MINUTES [--cores N]

Called again, it continues where it stopped. Snakemake runs the cells, in the order of experiments.yml.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from mmbook import grids, ledger, progress
from mmlib.experiments import runs

RUNS, LEDGER, LOGS = Path("runs"), Path("book/results"), Path("build/logs")


def add_finished(cells: list[grids.Cell]) -> None:
    """Add the finished runs of cells that are not in the ledger yet."""
    for cell in cells:
        folder, path = RUNS / cell.grid / cell.path, LEDGER / cell.grid / cell.path.with_suffix(".json")
        if (folder / "metrics.json").exists() and not path.exists():
            kept = grids.load_grids()[cell.grid]
            embeddings, weights = kept.get("embeddings", True), kept.get("weights", False)
            ledger.add(runs.load_run(folder), LEDGER / cell.grid, embeddings=embeddings, weights=weights)
            print(f"added {cell.path}", flush=True)


def run(grid: str, cells: list[grids.Cell], deadline: float, cores: str) -> None:
    """Let Snakemake run the cells until the deadline, in seconds since 1970; unfinished cells resume next time.

    Raises:
        RuntimeError: Snakemake did not start a single cell; the message is the end of its output.
    """
    since = time.time()
    targets = [str(RUNS / cell.grid / cell.path / "metrics.json") for cell in cells]
    # No lock of the whole folder, which a kill would leave behind: each cell's folder has its own.
    options = ["--cores", cores, "--keep-going", "--rerun-incomplete", "--nolock"]
    command = ["snakemake", *targets, *options, "--config", f"deadline={deadline:.0f}"]
    log = LOGS / grid / "snakemake.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as words,
        subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT) as driver,
    ):
        while driver.poll() is None:
            time.sleep(1)
            add_finished(cells)  # at once: whoever kills this command keeps what has finished
    began = any(path.stat().st_mtime >= since for path in LOGS.glob("*/*.log"))
    if driver.returncode and not began and since < deadline:
        raise RuntimeError("snakemake ran no cell: " + " ".join(log.read_text(encoding="utf-8").split())[-500:])


def main(arguments: list[str]) -> int:
    """Run, add, report; return 1 where a cell failed. A cell whose data are missing is skipped, which is no failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", help="a name in experiments.yml")
    parser.add_argument("minutes", type=float, help="after which no cell starts or goes on")
    parser.add_argument("--cores", default="all", help="how many runs at a time; on GPUs one run on each")
    given = parser.parse_args(arguments)
    start = time.time()
    add_finished(grids.cells(given.grid))
    missing = grids.grid_records(given.grid, LEDGER).missing
    skipped = grids.missing_datasets(missing)
    for dataset, reason in skipped.items():
        count = sum(cell.dataset == dataset for cell in missing)
        print(f"skipped {count} cells of {dataset}: {reason}; book/run.md, Data sets, says how to get it", flush=True)
    if cells := [cell for cell in missing if cell.dataset not in skipped]:
        run(given.grid, cells, start + 60 * given.minutes, given.cores)
    records, missing, rejected = grids.grid_records(given.grid, LEDGER)
    print(f"{given.grid}: {len(records)} of {len(records) + len(missing)} cells are recorded in {LEDGER}")
    rest = [progress.cell_progress(cell, Path()) for cell in missing]
    told = [f"{cell.state} {cell}" for cell in rest if cell.state != progress.MISSING]
    print(*rejected, *told, sep="\n", end="\n" if rejected or told else "")
    return int(any(cell.state == progress.FAILED for cell in rest))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"record: {error}")
