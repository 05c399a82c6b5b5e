"""Writing a finished run into its folder, and taking a run up again."""

import io
from pathlib import Path

import numpy as np
import torch

from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.evaluation.predictions import Predictions
from mmlib.experiments.provenance import environment
from mmlib.experiments.runs.files import (
    CONFIG,
    EMBEDDINGS,
    ENVIRONMENT,
    HISTORY,
    METRICS,
    checksum,
    read_json,
    write_atomic,
    write_json,
)
from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config, result_config
from mmlib.experiments.training.resume import first_mismatch, mismatch_reason
from mmlib.experiments.training.trainer import Trainer, train

SAVED_CLASSES, SAVED_PER_CLASS = 10, 100  # of the test set, whose embeddings a run keeps for figures


def load_or_train(
    config: Config,
    dataset: Dataset,
    folder: str | Path,
    *,
    device: str = "cpu",
    compile: bool = False,
    checkpoint_minutes: float = 5,
    checkpoint_epochs: int | None = None,
    max_minutes: float | None = None,
) -> Trainer:
    """Load the run if its folder holds it finished, from whatever device; train it, or resume it, otherwise.

    A checkpoint that is not whole is skipped with a warning. So is a whole one of other code or another configuration,
    which is moved aside before training replaces it.

    Args:
        folder: of the run.
        device, compile, checkpoint_minutes, checkpoint_epochs, max_minutes: as in `train`.

    Raises:
        ValueError: the folder holds a finished run of another configuration, or of a version with parameters that this
            one does not know; the data set has a single class; or `train` refuses an argument.
        FileNotFoundError: the folder holds a finished run without a whole checkpoint of its own.
        OSError: a checkpoint cannot be read, or one of another run would have to be moved aside where there is one.
    """
    folder = Path(folder)
    if not (folder / METRICS).exists():
        if dataset.classes < 2:
            raise ValueError(f"dataset {dataset.name} must have at least 2 classes to train on, got {dataset.classes}")
        return train(
            config,
            dataset,
            device=device,
            compile=compile,
            folder=folder,
            checkpoint_minutes=checkpoint_minutes,
            checkpoint_epochs=checkpoint_epochs,
            max_minutes=max_minutes,
        )
    stored, expected = read_json(folder / CONFIG), result_config(config, dataset)
    if unknown := sorted(stored.keys() - expected.keys() - {"digest"}):
        words = ", ".join(f"{name} {stored[name]!r}" for name in unknown)
        raise ValueError(f"folder {folder} holds a finished run of another version, with {words}")
    if mismatch := first_mismatch(stored, expected):
        name, found, value = mismatch
        raise ValueError(f"folder {folder} holds a finished run whose {name} is {found!r}, not {value!r}")
    state = Checkpoints(folder).load(lambda state: mismatch_reason(state, expected))
    if state is None:
        raise FileNotFoundError(f"folder {folder} holds a finished run without its checkpoint; choose another folder")
    trainer = Trainer(config, dataset, device)
    trainer.restore_result(state)
    return trainer


def save_run(folder: str | Path, trainer: Trainer, metrics: dict, predictions: Predictions) -> None:
    """Write a finished run; a finished run that is there already is left as it is.

    Args:
        folder: of the run.
        trainer: after the training.
        metrics, predictions: as `evaluate` returns them.
    """
    folder = Path(folder)
    if (folder / METRICS).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = result_config(trainer.config, trainer.dataset)
    write_json(folder / CONFIG, config | {"digest": checksum(config)})
    _write_history(folder / HISTORY, trainer.history)
    write_json(folder / ENVIRONMENT, environment(trainer.device) | _execution(trainer) | _cost(trainer))
    _write_embeddings(folder / EMBEDDINGS, trainer.dataset, predictions)
    write_json(folder / METRICS, metrics)


def _execution(trainer: Trainer) -> dict:
    """Return how the run was executed: what does not determine its result, but how long it takes and how it rounds."""
    return {
        "processes": trainer.world_size,
        "workers": getattr(trainer.dataset.train.images, "workers", 0),  # of a streamed data set
        "compile": trainer.compile,
    }


def _cost(trainer: Trainer) -> dict[str, int | float | None]:
    seconds = sum(row["seconds"] for row in trainer.history)
    steps = len(trainer.history) * len(trainer.batches)
    return {
        "train_seconds": seconds,
        "steps": steps,
        "images_per_second": steps * trainer.batches.batch_size * trainer.world_size / seconds,
        "peak_memory_mib": trainer.peak_memory_mib,
    }


def _write_history(path: Path, history: list[dict]) -> None:
    lines = [",".join(history[0])]
    lines += [",".join("" if value is None else repr(value) for value in row.values()) for row in history]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _write_embeddings(path: Path, dataset: Dataset, predictions: Predictions) -> None:
    labels = dataset.test.labels.cpu()
    classes = range(min(SAVED_CLASSES, dataset.classes))
    saved = torch.cat([(labels == k).nonzero().flatten()[:SAVED_PER_CLASS] for k in classes])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        embeddings=predictions.embeddings[saved].half().numpy(),
        labels=labels[saved].numpy(),
        indices=saved.numpy(),
    )
    write_atomic(path, buffer.getvalue())
