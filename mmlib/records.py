"""The run folder's contract: what a finished run leaves behind, and how it is read.

`<grid>/<dataset>/<model>/<variant>/seed<k>/` holds `config.json`, `history.csv`, `checkpoint.pt`, `environment.json`,
`embeddings.npz` and `metrics.json`. The last is written last: a folder without it is not a finished run, and nothing
reads it. Files are written whole, under a temporary name first.
"""

import csv
import dataclasses
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mmlib.data import Dataset
from mmlib.models import Predictions
from mmlib.provenance import environment
from mmlib.train import Config, Training, fits, train

EMBEDDED_CLASSES, EMBEDDED_IMAGES = 10, 100  # what a run keeps of its test embeddings, for pictures


def digest(config: Config, dataset: Dataset) -> str:
    """Sixteen hexadecimal digits that change with whatever decides the result: the configuration and every pixel."""
    content = json.dumps(describe(config, dataset), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def describe(config: Config, dataset: Dataset) -> dict:
    """The configuration, with the data set by its name and fingerprint instead of a path of this machine."""
    return {**dataclasses.asdict(config), "dataset": dataset.name, "data": dataset.fingerprint}


def load_or_train(config: Config, dataset: Dataset, folder: Path, *, device: str = "cpu") -> Training:
    """The run of this configuration: read if the folder holds it finished, else trained on from its checkpoint.

    A checkpoint of other code or another configuration in an unfinished folder is discarded, with a warning.

    Raises:
        ValueError: the folder holds the finished run of another configuration.
    """
    if (folder / "metrics.json").exists():
        held = json.loads((folder / "config.json").read_text())
        for name, value in describe(config, dataset).items():
            if held[name] != value:
                raise ValueError(f"folder {folder} holds a finished run whose {name} is {held[name]!r}, not {value!r}")
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists() and not fits(checkpoint, config, dataset):
        warnings.warn(f"{checkpoint} is of other code or another configuration: starting anew", stacklevel=2)
        checkpoint.unlink()
    return train(config, dataset, device=device, checkpoint=checkpoint)


def write(folder: Path, run: Training, metrics: dict, predictions: Predictions) -> None:
    """Write a finished run; `metrics.json` comes last and marks it finished."""
    folder.mkdir(parents=True, exist_ok=True)
    described = describe(run.config, run.dataset)
    _write_json(folder / "config.json", described | {"digest": digest(run.config, run.dataset)})
    _write_history(folder / "history.csv", run.history)
    seconds = sum(row["seconds"] for row in run.history)
    images = len(run.history) * len(run.batches) * run.batches.batch_size
    cost = {"train_seconds": seconds, "images_per_second": images / seconds}
    _write_json(folder / "environment.json", environment(run.device) | cost)
    _write_embeddings(folder / "embeddings.npz", run.dataset, predictions)
    _write_json(folder / "metrics.json", metrics)


def read(folder: Path) -> dict:
    """A finished run's configuration, metrics, history and environment."""
    parts = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "metrics", "environment")}
    with (folder / "history.csv").open() as file:
        parts["history"] = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    return parts


def read_embeddings(folder: Path) -> dict[str, np.ndarray]:
    """Test embeddings of up to ten classes, their labels, and the indices of their images in the test set."""
    with np.load(folder / "embeddings.npz") as arrays:
        return dict(arrays)


def finished(root: Path) -> Iterator[Path]:
    """The folders of all finished runs below `root`, in order."""
    return (path.parent for path in sorted(Path(root).rglob("metrics.json")))


def table(root: Path) -> list[dict]:
    """One row for every finished run below `root`: where it stands in the grid, and its numbers.

    >>> table(Path("no such folder"))
    []
    """
    rows = []
    for folder in finished(root):
        dataset, model, variant, seed = folder.parts[-4:]
        numbers = {k: v for k, v in read(folder)["metrics"].items() if not isinstance(v, list)}
        rows.append({"dataset": dataset, "model": model, "variant": variant, "seed": int(seed[4:]), **numbers})
    return rows


def _write_json(path: Path, content: dict) -> None:
    _write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


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
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        embeddings=predictions.embeddings[kept].half().numpy(),
        labels=labels[kept].numpy(),
        indices=kept.numpy(),
    )
    partial.replace(path)
