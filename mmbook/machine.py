"""Your machine and the record: the runs of this machine, held against the recorded ones cell by cell.

On one instruction set a run has the same numbers everywhere. Another instruction set rounds sums otherwise, and a long
training turns that into another accuracy. How far apart such twins lie is measured: some recorded cells were run again
on one machine with other instructions, and the spread of the differences makes the *band*.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from scipy import stats

from mmbook.comparison import counted
from mmbook.grids import Cell, cells
from mmbook.ledger import load_record, load_valid
from mmbook.names import printed_name
from mmbook.notebook import project_root
from mmlib.experiments.runs import Run, RunRecord, load_run

LEVEL = 0.95
METRICS = {"accuracy": 2, "alignment": 3, "uniformity": 3}  # those that are held against the band, with their decimals
IDENTICAL, WITHIN, OUTSIDE = "identical", "within the band", "outside the band"


def half_width(differences: Sequence[float], level: float = LEVEL) -> float:
    """Compute how far from zero a share `level` of such differences lies, by Student's t with their mean square.

    Args:
        differences: of one metric between twins, whose expectation is zero.

    Returns:
        The half-width, in the metric's unit; infinite for no differences.

    >>> round(half_width([1.0, -1.0, 1.0, -1.0]), 3)
    2.776
    """
    if not differences:
        return math.inf
    root_mean_square = math.sqrt(sum(d * d for d in differences) / len(differences))
    return float(stats.t.ppf((1 + level) / 2, len(differences)) * root_mean_square)


def measure_band(ledger: Path, twins: Path) -> tuple[dict[str, float], int]:
    """Measure the band of each metric from recorded runs and their twins, which were run with other instructions.

    The band is simultaneous: all metrics of a cell lie in theirs with a probability of at least `LEVEL`.

    Args:
        ledger: a grid's folder in the ledger.
        twins: a folder of the same form with the twins.

    Returns:
        The half-width of each metric's band, and the number of pairs behind it.
    """
    pairs = [(load_record(ledger / twin.path.with_suffix(".json")), twin) for twin in load_valid(twins, load_record)[0]]
    level = 1 - (1 - LEVEL) / len(METRICS)
    differences = {name: [twin.metrics[name] - record.metrics[name] for record, twin in pairs] for name in METRICS}
    return {name: half_width(values, level) for name, values in differences.items()}, len(pairs)


def has_band(record: RunRecord, twins: Path) -> bool:
    """Tell whether the band was measured on such runs: of the same data set, network and number of epochs."""
    settings = ("dataset", "model", "epochs")
    return any(
        all(twin.config[name] == record.config[name] for name in settings) for twin in load_valid(twins, load_record)[0]
    )


def outcome(recorded: Mapping, here: Mapping, band: Mapping[str, float]) -> str:
    """Say whether the metrics of a run are the recorded ones, lie within the band around them, or outside.

    >>> metrics = {"accuracy": 90.0, "alignment": 0.5, "uniformity": -2.0}
    >>> outcome(metrics, metrics | {"accuracy": 91.5}, {"accuracy": 1.0, "alignment": 0.1, "uniformity": 0.1})
    'outside the band'
    """
    if all(recorded[name] == here[name] for name in recorded.keys() & here.keys()):
        return IDENTICAL
    within = all(abs(here[name] - recorded[name]) <= band[name] for name in METRICS)
    return WITHIN if within else OUTSIDE


def compare_cells(planned: Sequence[Cell], runs: Path, results: Path, band: Mapping[str, float]) -> pd.DataFrame:
    """Compare the finished runs of cells with their records.

    Args:
        planned: the cells that were to be run.
        runs: the folder of run folders, with a folder for each grid.
        results: the ledger.
        band: of `measure_band`.

    Returns:
        One row for each cell that has both a finished run and a record, with `variant`, `seed`, `outcome`, and each
        metric as recorded and, with `_here` behind its name, as found.
    """
    rows = []
    for cell in planned:
        folder, path = runs / cell.grid / cell.path, results / cell.grid / cell.path.with_suffix(".json")
        if (folder / "metrics.json").exists() and path.exists():
            record, run = load_record(path), load_run(folder)
            rows.append(_row(record, run, band))
    columns = ["variant", "seed", "outcome", *(column for name in METRICS for column in (name, f"{name}_here"))]
    return pd.DataFrame(rows, columns=columns)


def compare_embedded() -> tuple[pd.DataFrame, dict[str, float], int]:
    """Compare the cells that `make book` runs with their records, in this clone.

    Returns:
        The comparison, the band, and the number of pairs behind the band.
    """
    root = project_root()
    results = root / "book" / "results"
    band, pairs = measure_band(results / "digits", results / "other-instructions")
    return compare_cells(cells("embedded"), root / "runs", results, band), band, pairs


def _row(record: RunRecord, run: Run, band: Mapping[str, float]) -> dict:
    row = {"variant": record.variant, "seed": record.seed, "outcome": outcome(record.metrics, run.metrics, band)}
    for name in METRICS:
        row |= {name: record.metrics[name], f"{name}_here": run.metrics[name]}
    return row


def summary(compared: pd.DataFrame) -> str:
    """Count the outcomes in one line.

    >>> summary(pd.DataFrame({"outcome": ["identical", "identical", "within the band"]}))
    'This machine and the record: of 3 runs 2 are identical, 1 is within the band, 0 are outside.'
    """
    if compared.empty:
        return "This machine and the record: no run of this machine has a record to be held against."
    counts = compared["outcome"].value_counts()
    words = [(counts.get(name, 0), name) for name in (IDENTICAL, WITHIN, OUTSIDE)]
    parts = [f"{count} {'is' if count == 1 else 'are'} {name}" for count, name in words]
    runs = counted(len(compared), "run")
    return f"This machine and the record: of {runs} {', '.join(parts).removesuffix(' the band')}."


def page(compared: pd.DataFrame, band: Mapping[str, float], pairs: int) -> str:
    """Write the comparison as Markdown: the summary, the band, and a row for each cell."""
    if compared.empty:
        return summary(compared) + "\n"
    widths = ", ".join(f"{name} ± {band[name]:.{digits}f}" for name, digits in METRICS.items())
    lines = [
        f"**{summary(compared)}**",
        "",
        f"The band: {widths}, from {pairs} pairs." if pairs else "The band is not measured yet.",
        "",
        "| method | seed | outcome | " + " | ".join(f"{name}, recorded | here" for name in METRICS) + " |",
        "|---|---:|---|" + "---:|" * (2 * len(METRICS)),
    ]
    for row in compared.to_dict("records"):
        numbers = [f"{row[key]:.{digits}f}" for name, digits in METRICS.items() for key in (name, f"{name}_here")]
        lines.append(f"| {printed_name(row['variant'])} | {row['seed']} | {row['outcome']} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"
