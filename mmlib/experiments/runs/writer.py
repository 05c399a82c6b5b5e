"""The run folder's contract: what a finished run leaves behind, and how a run is taken up again.

`<grid>/<dataset>/<model>/<variant>/seed<k>/` holds `config.json`, `history.csv`, `checkpoint.pt`, `environment.json`,
`embeddings.npz` and `metrics.json`. The last is written last: a folder without it is not a finished run, and nothing
reads it. Files are written whole, under a temporary name first.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch

from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.evaluation.predictions import Predictions
from mmlib.experiments.provenance import environment
from mmlib.experiments.runs.files import checksum, write_atomic, write_json
from mmlib.experiments.training import distributed
from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config, describe, difference, differs
from mmlib.experiments.training.trainer import Trainer, train

EMBEDDED_CLASSES, EMBEDDED_IMAGES = 10, 100  # what a run keeps of its test embeddings, for pictures


def load_or_train(config: Config, dataset: Dataset, folder: Path, *, device: str = "cpu", **running) -> Trainer:
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
    run = Trainer(config, dataset, device)
    run.restore(state)
    run.classifier.eval()
    return run


def write(folder: Path, run: Trainer, metrics: dict, predictions: Predictions) -> None:
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


def _peak(device: str) -> float | None:
    """The most memory that this process has held, in MiB: on a GPU the tensors there, else all of it."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows has no such count
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def _write_history(path: Path, history: list[dict]) -> None:
    lines = [",".join(history[0])]
    lines += [",".join("" if value is None else repr(value) for value in row.values()) for row in history]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _write_embeddings(path: Path, dataset: Dataset, predictions: Predictions) -> None:
    labels = dataset.test.labels
    classes = range(min(EMBEDDED_CLASSES, dataset.classes))
    kept = torch.cat([(labels == k).nonzero().flatten()[:EMBEDDED_IMAGES] for k in classes])
    arrays = {"embeddings": predictions.embeddings[kept].half(), "labels": labels[kept], "indices": kept}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())
