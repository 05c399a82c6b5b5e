"""The book's ledger of finished runs: complete, unedited files, from which tables are made.

A run is one file, `<grid>/<dataset>/<model>/<variant>/seed<k>.json`: the tables of its run folder with a checksum, the
history shortened and stored by columns. Beside it lie the embeddings of seed 0, unless the grid does without them, and
the weights of the network where the grid asks for them.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import TypeVar, get_args

from mmlib.experiments import runs
from mmlib.experiments.methods import METHODS
from mmlib.experiments.runs import RunRecord, checksum, parse_run_path, write_atomic, write_json

# The fields that each part of a record must have, and the types of their values; a float is finite, or an integer. Null
# are errors under attack where nothing was attacked, and what takes two images, two of a class, or two classes, where
# the test set has none.
REQUIRED_FIELDS = {
    "config": {
        **dict.fromkeys(("dataset", "model", "method", "data", "digest"), str),
        **dict.fromkeys(("seed", "epochs"), int),
        "options": dict,
    },
    "metrics": {
        **dict.fromkeys(("accuracy", "top5_accuracy", "nll", "calibration_error"), float),
        **dict.fromkeys(("alignment", "uniformity"), float | None),
        **dict.fromkeys(("within_class_variance", "between_class_variance"), float),
        "class_mean_cosine": float | None,
        "knn_accuracy": float,
        **dict.fromkeys(("fgsm_error", "pgd_error"), float | None),
        "attacked_images": int,
        "class_accuracy": list,
        "pgd_errors": list | None,
        "ood": dict,
    },
    "history": dict.fromkeys(("epoch", "lr", "loss", "seconds"), float) | {"validation_accuracy": float | None},
    "environment": {
        **dict.fromkeys(("python", "torch", "device"), str),
        **dict.fromkeys(("numpy", "commit"), str | None),
        "threads": int,
        **dict.fromkeys(("train_seconds", "images_per_second"), float),
        "peak_memory_mib": float | None,
    },
}
WORDS = {float: "a finite number", int: "an integer", str: "text", list: "a list", dict: "an object", NoneType: "null"}
HISTORY_ROWS = 100
SCALARS = tuple(name for name, kind in REQUIRED_FIELDS["metrics"].items() if kind in (float, float | None, int))

R = TypeVar("R")


def load_record(path: Path) -> RunRecord:
    """Load the record of one file of the ledger, `<dataset>/<model>/<variant>/seed<k>.json`.

    Args:
        path: of the file.

    Raises:
        ValueError: the file is incomplete, was edited by hand, or is of a method that this version does not know.
        OSError: the file cannot be read.
    """
    content = read_verified(path)
    if isinstance(columns := content.get("history"), dict):  # older records hold rows
        lengths = {len(values) if isinstance(values, list) else None for values in columns.values()}
        if len(lengths) != 1 or None in lengths:
            raise ValueError(f"{path} has a history that is not columns of one length")
        content["history"] = [dict(zip(columns, values)) for values in zip(*columns.values())]
    _check(path, content)
    parts = {part: content[part] for part in REQUIRED_FIELDS}  # a later version may have more
    files = {"embeddings_path": path.with_suffix(".npz"), "weights_path": path.with_suffix(".pt")}
    return RunRecord(**parse_run_path(path), **parts, **files)


def load_folder(folder: Path) -> RunRecord:
    """Load the record of a run folder of a grid, with the checks of `load_record`.

    Args:
        folder: of a finished run, `<dataset>/<model>/<variant>/seed<k>`.

    Raises:
        ValueError: its path is not of this form or not that of its configuration, a file in it is damaged or
            incomplete, or it is of a method that this version does not know.
        OSError: a file is missing or cannot be read.
    """
    record = RunRecord(**parse_run_path(folder), **vars(runs.load_run(folder)))
    _check(folder, {part: getattr(record, part) for part in REQUIRED_FIELDS})
    return record


def read_verified(path: Path) -> dict:
    """Read a file of the ledger, verify its checksum, and return the content without the checksum.

    Args:
        path: of the file.

    Raises:
        ValueError: the file is not a JSON object, or its checksum does not match.
        OSError: the file cannot be read.
    """
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        valid = content.pop("checksum", None) == checksum(content)
    except (ValueError, TypeError, RecursionError):  # the last of brackets within brackets
        raise ValueError(f"{path} is not a record: it must hold a JSON object") from None
    if not valid:
        raise ValueError(f"{path} does not match its checksum: it was edited by hand")
    return content


def _check(path: Path, content: dict) -> None:
    """Refuse a record that is incomplete, or whose configuration does not match its digest, its path or our methods."""
    for part, fields in REQUIRED_FIELDS.items():
        rows = content.get(part) if part == "history" else [content.get(part)]
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path} has no {part}")
        _check_fields(path, part, fields, rows)
    config = dict(content["config"])
    if config.pop("digest") != checksum(config):
        raise ValueError(f"{path} has a configuration that does not match its digest")
    for name, value in parse_run_path(path).items():
        if name != "variant" and config[name] != value:
            raise ValueError(f"{path} was made with {name} {config[name]!r}")
    if config["method"] not in METHODS:
        raise ValueError(f"{path} has a method that this version does not know, {config['method']!r}")
    if config["epochs"] < 1:
        raise ValueError(f"{path} was made with epochs {config['epochs']!r}")


def _check_fields(path: Path, part: str, fields: dict[str, type | UnionType], rows: list[dict]) -> None:
    for name, kind in fields.items():
        if any(name not in row for row in rows):
            raise ValueError(f"{path} is incomplete: its {part} has no {name}")
        kinds = get_args(kind) or (kind,)
        for row in rows:
            if not _is_one_of(kinds, row[name]):
                wanted = " or ".join(WORDS[one] for one in kinds)
                raise ValueError(f"{path} is no record: {name} in its {part} must be {wanted}, got {row[name]!r:.60}")


def _is_one_of(kinds: tuple[type, ...], value: object) -> bool:
    """Say whether a value, as JSON has it, is of one of the kinds; true and false are no numbers."""
    if float in kinds and type(value) in (int, float):
        return abs(value) <= sys.float_info.max
    return type(value) in kinds


def load_valid(folder: Path, load: Callable[[Path], R], pattern: str = "seed*.json") -> tuple[list[R], list[str]]:
    """Load every file of a name below a folder.

    Args:
        folder: may be missing; nothing is found then.
        load: reads one file, and raises `ValueError` or `OSError` where it is not a record.
        pattern: of the files' names.

    Returns:
        The records by path, and a line for each file that was left out, with the reason.
    """
    records, rejected = [], []
    for path in sorted(folder.rglob(pattern)):
        try:
            records.append(load(path))
        except (ValueError, OSError) as error:
            rejected.append(f"{error}: left out")
    return records, rejected


def find_runs(root: Path | str) -> tuple[list[RunRecord], list[str]]:
    """Find all finished runs below `root`, in run folders and in files of a ledger.

    Args:
        root: the folder to search.

    Returns:
        The records by data set, model, method (in the order of `METHODS`), variant and seed; and a line for each file
        or folder that is incomplete or was edited, and therefore left out.
    """
    recorded, rejected = load_valid(Path(root), load_record)
    finished, damaged = load_valid(Path(root), lambda path: load_folder(path.parent), "metrics.json")
    return sorted(recorded + finished, key=_order), rejected + damaged


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
