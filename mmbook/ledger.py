"""The book's ledger of finished runs: complete, unedited files, from which tables are made.

A run is one file, `<grid>/<dataset>/<model>/<variant>/seed<k>.json`: the tables of its run folder with a checksum, the
history shortened and stored by columns. Beside it lie the embeddings of seed 0, unless the grid does without them, and
the weights of the network where the grid asks for them.
"""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mmlib.experiments import runs
from mmlib.experiments.methods import METHODS
from mmlib.experiments.runs import RunRecord, checksum, parse_run_path, write_atomic, write_json

NON_SCALAR = ("class_accuracy", "pgd_errors", "ood")  # metrics that are lists or tables
# The fields that each part of a record must have.
REQUIRED_FIELDS = {
    part: tuple(names.split())
    for part, names in {
        "config": "dataset model method options seed epochs data digest",
        "metrics": "accuracy top5_accuracy nll calibration_error alignment uniformity within_class_variance "
        "between_class_variance class_mean_cosine knn_accuracy fgsm_error pgd_error attacked_images "
        "class_accuracy pgd_errors ood",
        "history": "epoch lr loss seconds validation_accuracy",
        "environment": "python torch numpy device threads commit train_seconds images_per_second peak_memory_mib",
    }.items()
}
HISTORY_ROWS = 100
SCALARS = tuple(name for name in REQUIRED_FIELDS["metrics"] if name not in NON_SCALAR)
# Scalars that a run may lack: errors under attack where nothing was attacked, and what takes two images of a class, or
# two classes, where the test set has none.
NULLABLE = ("fgsm_error", "pgd_error", "alignment", "class_mean_cosine")

R = TypeVar("R")


def load_record(path: Path) -> RunRecord:
    """Load the record of one file of the ledger, `<dataset>/<model>/<variant>/seed<k>.json`.

    Raises:
        ValueError: the file is incomplete, or was edited by hand.
    """
    content = read_verified(path)
    if isinstance(columns := content.get("history"), dict):  # older records hold rows
        if len({len(values) for values in columns.values()}) != 1:
            raise ValueError(f"{path} has a history whose columns differ in length")
        content["history"] = [dict(zip(columns, values)) for values in zip(*columns.values())]
    _check(path, content)
    files = {"embeddings_path": path.with_suffix(".npz"), "weights_path": path.with_suffix(".pt")}
    return RunRecord(**parse_run_path(path), **content, **files)


def read_verified(path: Path) -> dict:
    """Read a file of the ledger, verify its checksum, and return the content without the checksum.

    Raises:
        ValueError: the file is not a JSON object, or its checksum does not match.
    """
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is not a record: it must hold a JSON object") from None
    if content.pop("checksum", None) != checksum(content):
        raise ValueError(f"{path} does not match its checksum: it was edited by hand")
    return content


def _check(path: Path, content: dict) -> None:
    """Refuse a record that lacks a field, or whose configuration does not match its digest or its path."""
    for part, names in REQUIRED_FIELDS.items():
        rows = content.get(part) if part == "history" else [content.get(part)]
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path} has no {part}")
        for name in names:
            if any(name not in row for row in rows):
                raise ValueError(f"{path} is incomplete: its {part} has no {name}")
    config = dict(content["config"])
    if config.pop("digest") != checksum(config):
        raise ValueError(f"{path} has a configuration that does not match its digest")
    for name, value in parse_run_path(path).items():
        if name != "variant" and config[name] != value:
            raise ValueError(f"{path} was made with {name} {config[name]!r}")
    metrics = content["metrics"]
    scalars = [metrics[name] for name in SCALARS if metrics[name] is not None or name not in NULLABLE]
    if not all(isinstance(scalar, int | float) and math.isfinite(scalar) for scalar in scalars):
        raise ValueError(f"{path} has metrics that are not finite numbers")


def load_valid(folder: Path, load: Callable[[Path], R]) -> tuple[list[R], list[str]]:
    """Load every `seed<k>.json` below a folder.

    Args:
        load: reads one file, and raises `ValueError` where it is not a record.

    Returns:
        The records by path, and a line for each file that was left out, with the reason.
    """
    records, rejected = [], []
    for path in sorted(folder.rglob("seed*.json")):
        try:
            records.append(load(path))
        except ValueError as error:
            rejected.append(f"{error}: left out")
    return records, rejected


def find_runs(root: Path | str) -> tuple[list[RunRecord], list[str]]:
    """Find all finished runs below `root`, in run folders and in files of a ledger.

    Returns:
        The records by data set, model, method (in the order of `METHODS`), variant and seed; and a line for each file
        of the ledger that is incomplete or was edited, and therefore left out.
    """
    records, rejected = load_valid(Path(root), load_record)
    records += [runs.load_run(path.parent) for path in sorted(Path(root).rglob("metrics.json"))]
    return sorted(records, key=_order), rejected


def _order(record: RunRecord) -> tuple[str, str, int, str, int]:
    return record.dataset, record.model, list(METHODS).index(record.config["method"]), record.variant, record.seed


def collect(root: Path | str) -> list[RunRecord]:
    """Return the records of `find_runs`, with a warning for each file that was left out.

    Raises:
        FileNotFoundError: there is no finished run.
    """
    records, rejected = find_runs(root)
    for line in rejected:
        warnings.warn(line, stacklevel=2)
    if not records:
        raise FileNotFoundError(f"results must hold a finished run, got {str(root)!r}; `make book` makes some")
    return records


def table(records: list[RunRecord]) -> list[dict]:
    """Return one row for each record: its place in the grid, and its scalar metrics.

    >>> table([])
    []
    """
    return [
        {"dataset": r.dataset, "model": r.model, "variant": r.variant, "seed": r.seed}
        | {name: value for name, value in r.metrics.items() if not isinstance(value, list | dict)}
        for r in records
    ]


def thin_history(history: list[dict], rows: int = HISTORY_ROWS) -> list[dict]:
    """Shorten a history to at most `rows` rows, each of a block of epochs that ends with the row's own.

    The loss is the block's mean, the seconds are its sum, and all else is the last value that the block holds.

    >>> history = [{"epoch": k + 1, "loss": k, "seconds": 1.0, "validation_accuracy": None} for k in range(4)]
    >>> thin_history(history, rows=2)[1]
    {'epoch': 4, 'loss': 2.5, 'seconds': 2.0, 'validation_accuracy': None}
    """
    ends = sorted({round((k + 1) * len(history) / rows) for k in range(rows)} - {0})
    blocks = [history[start:end] for start, end in zip([0, *ends], ends)]
    return [_merge_rows(block) for block in blocks]


def _merge_rows(block: list[dict]) -> dict:
    last = {name: next((row[name] for row in reversed(block) if row[name] is not None), None) for name in block[0]}
    seconds = sum(row["seconds"] for row in block)
    return last | {"loss": sum(row["loss"] for row in block) / len(block), "seconds": seconds}


def add(record: RunRecord, ledger: Path, *, embeddings: bool = True, weights: bool = False) -> None:
    """Write a record into the ledger.

    Args:
        ledger: the grid's folder in the ledger.
        embeddings: whether to keep the embeddings of seed 0 beside the record.
        weights: whether to keep the network's weights beside the record.

    Raises:
        ValueError: the record is incomplete.
        FileNotFoundError: its run folder has no embeddings or no checkpoint.
    """
    path = ledger / record.path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: getattr(record, name) for name in REQUIRED_FIELDS}
    _check(path, content)
    rows = thin_history(record.history)
    content["history"] = {name: [row[name] for row in rows] for name in rows[0]}  # each column's name once
    if embeddings and record.seed == 0:
        write_atomic(path.with_suffix(".npz"), record.embeddings_path.read_bytes())
    if weights:
        runs.write_weights(path.with_suffix(".pt"), record.weights())
    write_json(path, content | {"checksum": checksum(content)})
