"""How far the cells of a grid are: recorded, running, stopped, failed or missing, and how long the rest will take."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mmbook import grids
from mmbook.grids import Cell
from mmbook.notebook import project_root
from mmlib.experiments.runs import RunRecord
from mmlib.experiments.training.checkpoints import Checkpoints, is_locked

STATES = ("recorded", "finished", "running", "failed", "stopped", "missing")
RECORDED, FINISHED, RUNNING, FAILED, STOPPED, MISSING = STATES
# The last line of a traceback, such as `FloatingPointError: the loss is nan`.
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b.*")


@dataclass(frozen=True)
class Progress:
    """The progress of one cell.

    Args:
        state: one of `STATES`. `finished` has a run folder and no record yet; `stopped` has a checkpoint that it will
            resume from.
        epochs: those that the last checkpoint holds; all of a finished cell.
        seconds_per_epoch: of the cell's own training so far; None without a checkpoint.
        reason: of a failed cell, the last line of its log.
    """

    cell: Cell
    state: str
    epochs: int = 0
    seconds_per_epoch: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        pace = f", {self.seconds_per_epoch:.2g} s an epoch" if self.seconds_per_epoch else ""
        reason = f"; {self.reason}" if self.reason else ""
        epochs = self.cell.settings["epochs"]
        return f"{self.cell.grid}/{self.cell.path}: {self.epochs} of {epochs} epochs{pace}{reason}"


def log_path(cell: Cell) -> Path:
    """The log of a cell, relative to the root of the clone."""
    return Path("build", "logs", cell.grid, f"{'-'.join(cell.path.parts)}.log")


def cell_progress(cell: Cell, root: Path) -> Progress:
    """Find how far a cell without a record is, from its run folder and its log below the root of the clone."""
    folder, log = root / "runs" / cell.grid / cell.path, root / log_path(cell)
    if (folder / "metrics.json").exists():
        return Progress(cell, FINISHED, cell.settings["epochs"])
    try:
        state = Checkpoints(folder).load(_reason_against)
    except OSError as error:
        return Progress(cell, FAILED, reason=str(error))
    history = state["history"] if state else []
    pace = sum(row["seconds"] for row in history) / len(history) if history else None
    if is_locked(folder):
        return Progress(cell, RUNNING, len(history), pace)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if ERROR.fullmatch(last) and "max_minutes is" not in last:
        return Progress(cell, FAILED, len(history), pace, f"{last} ({log_path(cell)})")
    return Progress(cell, STOPPED if history else MISSING, len(history), pace)


def _reason_against(state: dict) -> str | None:
    return None if isinstance(state.get("history"), list) else "is not a checkpoint of a run"


def grid_progress(grid: str) -> tuple[list[Progress], list[str], float | None]:
    """Find how far every cell of a grid is.

    Returns:
        The progress of each cell, lines for records that were left out, and the seconds of training that the other
        cells still need on one core or GPU: None where no record says how long an epoch takes.
    """
    root = project_root()
    records, missing, rejected = grids.grid_records(grid)
    recorded = {record.path for record in records}
    done = [Progress(cell, RECORDED, cell.settings["epochs"]) for cell in grids.cells(grid) if cell.path in recorded]
    rest = [cell_progress(cell, root) for cell in missing]
    return done + rest, rejected, remaining_seconds(rest, records)


def remaining_seconds(rest: Iterable[Progress], records: list[RunRecord]) -> float | None:
    """Estimate the seconds of training that cells still need.

    A cell's own pace counts; without one, the median of the records of its variant, else of its method, else of all on
    its data set and network.
    """
    paces = recorded_paces(records)
    total = 0.0
    for progress in rest:
        left = progress.cell.settings["epochs"] - progress.epochs
        pace = progress.seconds_per_epoch or nearest_pace(progress.cell, paces)
        if pace is None:
            return None
        total += left * pace
    return total


def recorded_paces(records: Iterable[RunRecord]) -> dict[tuple[str, ...], float]:
    """Return the median seconds of a recorded epoch, by data set and network, then also by method, then by variant.

    >>> recorded_paces([])
    {}
    """
    seconds = defaultdict(list)
    for r in records:
        place = r.dataset, r.model, r.config["method"], r.variant
        for parts in (2, 3, 4):
            seconds[place[:parts]].append(r.environment["train_seconds"] / r.config["epochs"])
    return {place: median(found) for place, found in seconds.items()}


def nearest_pace(cell: Cell, paces: dict[tuple[str, ...], float]) -> float | None:
    """Return the seconds of an epoch like a cell's, of `recorded_paces`; None where none is of its data and network."""
    place = cell.dataset, cell.settings["model"], cell.settings["method"], cell.variant
    return next((paces[place[:parts]] for parts in (4, 3, 2) if place[:parts] in paces), None)


def duration(seconds: float) -> str:
    """Write a time as a person would.

    >>> duration(42), duration(600), duration(8000)
    ('42 s', '10 min', '2 h 13 min')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
