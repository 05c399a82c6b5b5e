"""The run folder's contract: what a finished run leaves behind, and how it is read.

`<grid>/<dataset>/<model>/<variant>/seed<k>/` holds `config.json`, `history.csv`, `checkpoint.pt`, `environment.json`,
`embeddings.npz` and `metrics.json`. The last is written last: a folder without it is not a finished run, and nothing
reads it. Files are written whole, under a temporary name first.
"""

import csv
import hashlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmlib import distributed
from mmlib.checkpoints import Checkpoints
from mmlib.data import Dataset
from mmlib.models import Classifier, Predictions, build
from mmlib.provenance import environment
from mmlib.train import Config, Training, describe, difference, differs, train

EMBEDDED_CLASSES, EMBEDDED_IMAGES = 10, 100  # what a run keeps of its test embeddings, for pictures

CLASSIFIER = "classifier."  # what the names of its part of an objective's state begin with


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
    described = describe(run.config, run.dataset)
    write_json(folder / "config.json", described | {"digest": checksum(described)})
    _write_history(folder / "history.csv", run.history)
    seconds = sum(row["seconds"] for row in run.history)
    images = len(run.history) * len(run.batches) * run.batches.batch_size * distributed.processes()
    cost = {"train_seconds": seconds, "images_per_second": images / seconds, "peak_memory_mib": _peak(run.device)}
    write_json(folder / "environment.json", environment(run.device) | {"processes": distributed.processes()} | cost)
    _write_embeddings(folder / "embeddings.npz", run.dataset, predictions)
    write_json(folder / "metrics.json", metrics)


@dataclass(frozen=True)
class Record:
    """A finished run as tables and pictures see it: where it stands in its grid, and what it left behind."""

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
        try:
            classifier.load_state_dict(weights)
        except RuntimeError as error:
            takes = f"{self.config['model']} for the images and {dataset.classes} classes of {dataset.name}"
            found = f"{len(weights.get('head.bias', ()))} classes; {str(error).splitlines()[1].strip()[:160]}"
            raise ValueError(f"{self.weights_path} is of another network than {takes}: {found}") from None
        return classifier.eval()


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The classifier's state in a checkpoint, or in what a ledger keeps of one.

    Raises:
        FileNotFoundError: the file is not there.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)["objective"]
    return {name.removeprefix(CLASSIFIER): value for name, value in state.items() if name.startswith(CLASSIFIER)}


def read(folder: Path) -> Record:
    """The record of a finished run's folder."""
    parts = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "metrics", "environment")}
    with (folder / "history.csv").open() as file:
        history = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    beside = {"embeddings_path": folder / "embeddings.npz", "weights_path": folder / "checkpoint.pt"}
    return Record(**place_of(folder), **parts, history=history, **beside)


def place_of(path: Path) -> dict[str, str | int]:
    """Where `<dataset>/<model>/<variant>/seed<k>` stands in its grid."""
    dataset, model, variant, seed = path.absolute().with_suffix("").parts[-4:]
    return {"dataset": dataset, "model": model, "variant": variant, "seed": int(seed.removeprefix("seed"))}


def checksum(content: dict) -> str:
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


def write_json(path: Path, content: dict) -> None:
    """One line of JSON, written whole."""
    write_whole(path, (json.dumps(content) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _write_history(path: Path, history: list[dict]) -> None:
    lines = [",".join(history[0])]
    lines += [",".join("" if value is None else repr(value) for value in row.values()) for row in history]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def _write_embeddings(path: Path, dataset: Dataset, predictions: Predictions) -> None:
    labels = dataset.test.labels
    classes = range(min(EMBEDDED_CLASSES, dataset.classes))
    kept = torch.cat([(labels == k).nonzero().flatten()[:EMBEDDED_IMAGES] for k in classes])
    arrays = {"embeddings": predictions.embeddings[kept].half(), "labels": labels[kept], "indices": kept}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())
