"""The run folder's contract: what a finished run leaves behind, and how it is read.

`<grid>/<dataset>/<model>/<variant>/seed<k>/` holds `config.json`, `history.csv`, `checkpoint.pt`, `environment.json`,
`embeddings.npz` and `metrics.json`. The last is written last: a folder without it is not a finished run, and nothing
reads it. Files are written whole, under a temporary name first.
"""

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmlib import distributed
from mmlib.checkpoints import Checkpoints
from mmlib.data import Dataset
from mmlib.methods import METHODS
from mmlib.models import Predictions
from mmlib.provenance import environment
from mmlib.train import Config, Training, describe, differs, train

EMBEDDED_CLASSES, EMBEDDED_IMAGES = 10, 100  # what a run keeps of its test embeddings, for pictures


def digest(config: Config, dataset: Dataset) -> str:
    """Sixteen hexadecimal digits that change with whatever decides the result: the configuration and every pixel."""
    content = json.dumps(describe(config, dataset), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def load_or_train(config: Config, dataset: Dataset, folder: Path, *, device: str = "cpu", **stopping) -> Training:
    """The run of this configuration: read if the folder holds it finished, else trained on from its last checkpoint.

    A checkpoint that is not whole, or of other code or another configuration, is passed over with a warning.

    Args:
        stopping: `checkpoint_minutes`, `checkpoint_epochs` and `max_minutes` of `train`.

    Raises:
        ValueError: the folder holds the finished run of another configuration.
        FileNotFoundError: it holds a finished run without a checkpoint that can be read.
    """
    if not (folder / "metrics.json").exists():
        return train(config, dataset, device=device, folder=folder, **stopping)
    held = json.loads((folder / "config.json").read_text())
    described = describe(config, dataset)
    for name, value in described.items():
        if held.get(name) != value:  # a run of before there was the parameter holds none
            raise ValueError(f"folder {folder} holds a finished run whose {name} is {held.get(name)!r}, not {value!r}")
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
    described = describe(run.config, run.dataset)
    _write_json(folder / "config.json", described | {"digest": digest(run.config, run.dataset)})
    _write_history(folder / "history.csv", run.history)
    seconds = sum(row["seconds"] for row in run.history)
    images = len(run.history) * len(run.batches) * run.batches.batch_size * distributed.processes()
    cost = {"train_seconds": seconds, "images_per_second": images / seconds}
    _write_json(folder / "environment.json", environment(run.device) | cost)
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

    def embeddings(self) -> dict[str, np.ndarray]:
        """Test embeddings of up to ten classes, their labels, and the indices of their images in the test set."""
        with np.load(self.embeddings_path) as arrays:
            return dict(arrays)


def read(folder: Path) -> Record:
    """The record of a finished run's folder."""
    dataset, model, variant, seed = folder.absolute().parts[-4:]
    parts = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "metrics", "environment")}
    with (folder / "history.csv").open() as file:
        history = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    return Record(
        dataset, model, variant, int(seed[4:]), **parts, history=history, embeddings_path=folder / "embeddings.npz"
    )


def read_ledger(path: Path) -> Record:
    """The record of a file in the ledger, `<dataset>/<model>/<variant>/seed<k>.json`.

    Raises:
        ValueError: its content does not fit its checksum: it was edited by hand.
    """
    content = json.loads(path.read_text())
    if content.pop("checksum") != _checksum(content):
        raise ValueError(f"{path} does not fit its checksum: it was edited by hand")
    dataset, model, variant = path.absolute().parts[-4:-1]
    return Record(dataset, model, variant, int(path.stem[4:]), **content, embeddings_path=path.with_suffix(".npz"))


def collect(root: Path | str) -> list[Record]:
    """The records of all finished runs below `root`, run folders and ledger files alike.

    They come by data set, model, method (in the order of `METHODS`), variant and seed.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [read(path.parent) for path in sorted(Path(root).rglob("metrics.json"))]
    found += [read_ledger(path) for path in sorted(Path(root).rglob("seed*.json"))]
    if not found:
        raise FileNotFoundError(f"results is {str(root)!r}, which holds no finished run; `make book` makes some")
    methods = list(METHODS)
    return sorted(found, key=lambda r: (r.dataset, r.model, methods.index(r.config["method"]), r.variant, r.seed))


def table(found: list[Record]) -> list[dict]:
    """One row a record: where it stands in the grid, and its numbers.

    >>> table([])
    []
    """
    return [
        {"dataset": r.dataset, "model": r.model, "variant": r.variant, "seed": r.seed}
        | {name: value for name, value in r.metrics.items() if not isinstance(value, list)}
        for r in found
    ]


def enter(record: Record, ledger: Path) -> None:
    """Write a record into the ledger; of seed 0 the embeddings too."""
    place = ledger / record.dataset / record.model / record.variant
    place.mkdir(parents=True, exist_ok=True)
    content = {name: getattr(record, name) for name in ("config", "metrics", "history", "environment")}
    _write_json(place / f"seed{record.seed}.json", content | {"checksum": _checksum(content)})
    if record.seed == 0:
        _write_whole(place / "seed0.npz", record.embeddings_path.read_bytes())


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


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
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        embeddings=predictions.embeddings[kept].half().numpy(),
        labels=labels[kept].numpy(),
        indices=kept.numpy(),
    )
    partial.replace(path)
