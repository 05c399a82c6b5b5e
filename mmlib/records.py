"""The run folder's contract: what a finished run leaves behind, and how it is read; and the ledger of such runs.

`<grid>/<dataset>/<model>/<variant>/seed<k>/` holds `config.json`, `history.csv`, `checkpoint.pt`, `environment.json`,
`embeddings.npz` and `metrics.json`. The last is written last: a folder without it is not a finished run, and nothing
reads it. Files are written whole, under a temporary name first.

The ledger keeps of a run `<grid>/<dataset>/<model>/<variant>/seed<k>.json`, all of the above in one file with a
checksum, its history by columns; beside it the embeddings of seed 0 unless a grid does without, and where it asks for
them the weights.
"""

import csv
import hashlib
import io
import json
import math
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmlib import distributed
from mmlib.checkpoints import Checkpoints
from mmlib.data import Dataset
from mmlib.methods import METHODS
from mmlib.models import Classifier, Predictions, build
from mmlib.provenance import environment
from mmlib.train import Config, Training, describe, difference, differs, train

EMBEDDED_CLASSES, EMBEDDED_IMAGES = 10, 100  # what a run keeps of its test embeddings, for pictures

OF = "classifier."  # its part of an objective's state

# What every part of a record must have. Of the metrics all but these are finite numbers.
LISTED = ("class_accuracy", "pgd_errors", "ood")
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


def digest(config: Config, dataset: Dataset) -> str:
    """Sixteen hexadecimal digits that change with whatever decides the result: the configuration and every pixel."""
    return _digest(describe(config, dataset))


def load_or_train(config: Config, dataset: Dataset, folder: Path, *, device: str = "cpu", **running) -> Training:
    """The run of this configuration: read if the folder holds it finished, else trained on from its last checkpoint.

    A checkpoint that is not whole, or of other code or another configuration, is passed over with a warning.

    Args:
        running: `compile`, `checkpoint_minutes`, `checkpoint_epochs` and `max_minutes` of `train`.

    Raises:
        ValueError: the folder holds the finished run of another configuration.
        FileNotFoundError: it holds a finished run without a checkpoint that can be read.
    """
    if not (folder / "metrics.json").exists():
        return train(config, dataset, device=device, folder=folder, **running)
    held = json.loads((folder / "config.json").read_text())
    described = describe(config, dataset)
    if found := difference(held, described):
        raise ValueError("folder {} holds a finished run whose {} is {!r}, not {!r}".format(folder, *found))
    state = Checkpoints(folder).load(lambda state: differs(state, described))
    if state is None:
        raise FileNotFoundError(f"folder {folder} holds a finished run without its checkpoint; it takes another folder")
    run = Training(config, dataset, device)
    run.restore(state)
    run.classifier.eval()
    return run


def write(folder: Path, run: Training, metrics: dict, predictions: Predictions) -> None:
    """Write a finished run; one that is there already, marked by its `metrics.json`, is left as it is."""
    if (folder / "metrics.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    of = run.config, run.dataset
    _write_json(folder / "config.json", describe(*of) | {"digest": digest(*of)})
    _write_history(folder / "history.csv", run.history)
    seconds = sum(row["seconds"] for row in run.history)
    images = len(run.history) * len(run.batches) * run.batches.batch_size * distributed.processes()
    cost = {"train_seconds": seconds, "images_per_second": images / seconds, "peak_memory_mib": _peak(run.device)}
    processes = {"processes": distributed.processes()}
    _write_json(folder / "environment.json", environment(run.device) | processes | cost)
    _write_embeddings(folder / "embeddings.npz", run.dataset, predictions)
    _write_json(folder / "metrics.json", metrics)


@dataclass(frozen=True)
class Record:
    """A finished run as tables and pictures see it: where it stands in the grid, and what it left behind."""

    dataset: str
    model: str
    variant: str
    seed: int
    config: dict
    metrics: dict
    history: list[dict]
    environment: dict
    embeddings_path: Path
    weights_path: Path

    @property
    def place(self) -> Path:
        """Where it stands below its grid's folder."""
        return Path(self.dataset, self.model, self.variant, f"seed{self.seed}")

    def embeddings(self) -> dict[str, np.ndarray]:
        """Test embeddings of up to ten classes, their labels, and the indices of their images in the test set."""
        with np.load(self.embeddings_path) as arrays:
            return dict(arrays)

    def weights(self) -> dict[str, torch.Tensor]:
        """The classifier's state of the last epoch.

        Raises:
            FileNotFoundError: the ledger keeps none of this grid.
        """
        return weights(self.weights_path)

    def classifier(self, dataset: Dataset) -> Classifier:
        """The trained network of the last epoch, in evaluation mode.

        Args:
            dataset: the one that it was trained on, or another part of it.

        Raises:
            ValueError: another data set, or weights of another model, of other classes or other images than it has.
            FileNotFoundError: the ledger keeps no weights of this grid.
        """
        if dataset.name != self.config["dataset"]:
            raise ValueError(f"dataset is {dataset.name}; {self.place} takes {self.config['dataset']}")
        classifier, weights = build(self.config["model"], dataset), self.weights()
        held, takes = ({name: list(x.shape) for name, x in of.items()} for of in (weights, classifier.state_dict()))
        classes = len(weights.get("head.bias", ()))
        if held.keys() == takes.keys() and classes != dataset.classes:
            raise ValueError(f"{self.weights_path} is of {classes} classes; {dataset.name} has {dataset.classes}")
        for name in sorted(held.keys() | takes.keys()):
            if held.get(name) != takes.get(name):
                other = f"another model than {self.config['model']} or other images"
                shapes = f"{name} is {held.get(name)}, not {takes.get(name)}"
                raise ValueError(f"{self.weights_path} is of {other}: {shapes}")
        classifier.load_state_dict(weights)
        return classifier.eval()


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The classifier's state in a checkpoint, or in what a ledger keeps of one.

    Raises:
        FileNotFoundError: the file is not there.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)["objective"]
    return {name.removeprefix(OF): value for name, value in state.items() if name.startswith(OF)}


def read(folder: Path) -> Record:
    """The record of a finished run's folder."""
    parts = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "metrics", "environment")}
    with (folder / "history.csv").open() as file:
        history = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    beside = {"embeddings_path": folder / "embeddings.npz", "weights_path": folder / "checkpoint.pt"}
    return Record(**_place(folder), **parts, history=history, **beside)


def read_ledger(path: Path) -> Record:
    """The record of a file in the ledger, `<dataset>/<model>/<variant>/seed<k>.json`.

    Raises:
        ValueError: it is incomplete, or was edited by hand.
    """
    try:
        content = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is no record: it holds no JSON object") from None
    if content.pop("checksum", None) != _digest(content):
        raise ValueError(f"{path} does not fit its checksum: it was edited by hand")
    if isinstance(columns := content.get("history"), dict):  # older records hold rows
        if len({len(values) for values in columns.values()}) != 1:
            raise ValueError(f"{path} has a history whose columns differ in length")
        content["history"] = [dict(zip(columns, values)) for values in zip(*columns.values())]
    _check(path, content)
    beside = {"embeddings_path": path.with_suffix(".npz"), "weights_path": path.with_suffix(".pt")}
    return Record(**_place(path), **content, **beside)


def _place(path: Path) -> dict[str, str | int]:
    """Where `<dataset>/<model>/<variant>/seed<k>` stands in its grid."""
    dataset, model, variant, seed = path.absolute().with_suffix("").parts[-4:]
    return {"dataset": dataset, "model": model, "variant": variant, "seed": int(seed.removeprefix("seed"))}


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
    if config.pop("digest") != _digest(config):
        raise ValueError(f"{path} has a configuration that does not fit its digest")
    for name, place in _place(path).items():
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
    found = [read(path.parent) for path in sorted(Path(root).rglob("metrics.json"))]
    for path in sorted(Path(root).rglob("seed*.json")):
        try:
            found.append(read_ledger(path))
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
    """Write a record into the ledger; of seed 0 the embeddings too, and of all the weights where they are asked for.

    Raises:
        ValueError: the record is incomplete.
    """
    path = ledger / record.place.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: getattr(record, name) for name in CONTENT}
    _check(path, content)
    # Names once for all epochs: half the size.
    content["history"] = {name: [row[name] for row in record.history] for name in record.history[0]}
    if embeddings and record.seed == 0:
        _write_whole(path.with_suffix(".npz"), record.embeddings_path.read_bytes())
    if weights:
        buffer = io.BytesIO()
        torch.save({"objective": {OF + name: value for name, value in record.weights().items()}}, buffer)
        _write_whole(path.with_suffix(".pt"), buffer.getvalue())
    _write_json(path, content | {"checksum": _digest(content)})


def _digest(content: dict) -> str:
    """Sixteen hexadecimal digits that change with any of the content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _peak(device: str) -> float | None:
    """The most memory that this process has held, in MiB: on a GPU the tensors there, else all of it."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows has no such count
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def _write_json(path: Path, content: dict) -> None:
    _write_whole(path, (json.dumps(content) + "\n").encode())


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _write_history(path: Path, history: list[dict]) -> None:
    lines = [",".join(history[0])]
    lines += [",".join("" if value is None else repr(value) for value in row.values()) for row in history]
    _write_whole(path, ("\n".join(lines) + "\n").encode())


def _write_embeddings(path: Path, dataset: Dataset, predictions: Predictions) -> None:
    labels = dataset.test.labels
    classes = range(min(EMBEDDED_CLASSES, dataset.classes))
    kept = torch.cat([(labels == k).nonzero().flatten()[:EMBEDDED_IMAGES] for k in classes])
    arrays = {"embeddings": predictions.embeddings[kept].half(), "labels": labels[kept], "indices": kept}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    _write_whole(path, buffer.getvalue())
