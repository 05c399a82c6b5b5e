"""The book's ledger of finished runs: files that are whole, as they were written, and what tables are made of.

It keeps of a run `<grid>/<dataset>/<model>/<variant>/seed<k>.json`, the run folder's tables in one file with a
checksum, its history by columns; beside it the embeddings of seed 0 unless a grid does without, and where it asks for
them the weights.
"""

import io
import json
import math
import warnings
from pathlib import Path

import torch

from mmlib.experiments import runs
from mmlib.experiments.methods import METHODS
from mmlib.experiments.runs.files import checksum, write_atomic, write_json
from mmlib.experiments.runs.reader import CLASSIFIER, Record, place_of

LISTED = ("class_accuracy", "pgd_errors", "ood")  # metrics that are no single numbers
# What every part of a record must have.
CONTENT = {
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
NUMBERS = tuple(name for name in CONTENT["metrics"] if name not in LISTED)


def read(path: Path) -> Record:
    """The record of a file in the ledger, `<dataset>/<model>/<variant>/seed<k>.json`.

    Raises:
        ValueError: it is incomplete, or was edited by hand.
    """
    content = contents(path)
    if isinstance(columns := content.get("history"), dict):  # older records hold rows
        if len({len(values) for values in columns.values()}) != 1:
            raise ValueError(f"{path} has a history whose columns differ in length")
        content["history"] = [dict(zip(columns, values)) for values in zip(*columns.values())]
    _check(path, content)
    beside = {"embeddings_path": path.with_suffix(".npz"), "weights_path": path.with_suffix(".pt")}
    return Record(**place_of(path), **content, **beside)


def contents(path: Path) -> dict:
    """What a file of the ledger holds, its checksum excepted.

    Raises:
        ValueError: it does not fit its checksum, or is no JSON object.
    """
    try:
        content = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is no record: it holds no JSON object") from None
    if content.pop("checksum", None) != checksum(content):
        raise ValueError(f"{path} does not fit its checksum: it was edited by hand")
    return content


def _check(path: Path, content: dict) -> None:
    """Refuse what lacks a part or a number, or whose configuration is not the one of its digest and place."""
    for part, names in CONTENT.items():
        rows = content.get(part) if part == "history" else [content.get(part)]
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path} has no {part}")
        for name in names:
            if any(name not in row for row in rows):
                raise ValueError(f"{path} is incomplete: its {part} has no {name}")
    config = dict(content["config"])
    if config.pop("digest") != checksum(config):
        raise ValueError(f"{path} has a configuration that does not fit its digest")
    for name, place in place_of(path).items():
        if name != "variant" and config[name] != place:
            raise ValueError(f"{path} was made with {name} {config[name]!r}")
    numbers = [content["metrics"][name] for name in NUMBERS]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"{path} has metrics that are no numbers")


def collect(root: Path | str) -> list[Record]:
    """The records of all finished runs below `root`, run folders and ledger files alike.

    They come by data set, model, method (in the order of `METHODS`), variant and seed. A file of the ledger that is
    incomplete or was edited is left out with a warning.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [runs.read(path.parent) for path in sorted(Path(root).rglob("metrics.json"))]
    for path in sorted(Path(root).rglob("seed*.json")):
        try:
            found.append(read(path))
        except ValueError as error:
            warnings.warn(f"{error}: left out", stacklevel=2)
    if not found:
        raise FileNotFoundError(f"results is {str(root)!r}, which holds no finished run; `make book` makes some")
    methods = list(METHODS)
    return sorted(found, key=lambda r: (r.dataset, r.model, methods.index(r.config["method"]), r.variant, r.seed))


def table(found: list[Record]) -> list[dict]:
    """One row a record: where it stands in the grid, and its single numbers.

    >>> table([])
    []
    """
    return [
        {"dataset": r.dataset, "model": r.model, "variant": r.variant, "seed": r.seed}
        | {name: value for name, value in r.metrics.items() if not isinstance(value, list | dict)}
        for r in found
    ]


def enter(record: Record, ledger: Path, *, embeddings: bool = True, weights: bool = False) -> None:
    """Write a record into the ledger.

    Args:
        ledger: the grid's folder in it.
        embeddings: whether to keep those of seed 0 beside it.
        weights: whether to keep the network's beside it.

    Raises:
        ValueError: the record is incomplete.
        FileNotFoundError: its run's folder has no embeddings or no checkpoint.
    """
    path = ledger / record.place.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: getattr(record, name) for name in CONTENT}
    _check(path, content)
    # Names once for all epochs: half the size.
    content["history"] = {name: [row[name] for row in record.history] for name in record.history[0]}
    if embeddings and record.seed == 0:
        write_atomic(path.with_suffix(".npz"), record.embeddings_path.read_bytes())
    if weights:
        buffer = io.BytesIO()
        torch.save({"objective": {CLASSIFIER + name: value for name, value in record.weights().items()}}, buffer)
        write_atomic(path.with_suffix(".pt"), buffer.getvalue())
    write_json(path, content | {"checksum": checksum(content)})
