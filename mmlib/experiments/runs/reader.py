"""Reading a finished run from the folder that `mmlib.experiments.runs.writer` wrote."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.files import load_archive
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.models.registry import build
from mmlib.experiments.runs.files import (
    CHECKPOINT,
    CONFIG,
    EMBEDDINGS,
    ENVIRONMENT,
    HISTORY,
    METRICS,
    load_weights,
    read_json,
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, wherever its folder is.

    Args:
        config: what determined the result, as `result_config` returns it, with its `digest`.
        metrics: of the network of the last epoch, as `evaluate` returns them.
        history: a row for each epoch.
        environment: of the machine and the software, and the cost of the training.
        embeddings_path, weights_path: files that are read when asked for.
    """

    config: dict
    metrics: dict
    history: list[dict]
    environment: dict
    embeddings_path: Path
    weights_path: Path

    def embeddings(self) -> dict[str, np.ndarray]:
        """Load embeddings of test images of up to ten classes, their labels and their indices in the test set.

        Raises:
            FileNotFoundError: the ledger keeps no embeddings of this run.
            ValueError: the file is no archive of arrays.
        """
        return load_archive(self.embeddings_path)

    def weights(self) -> dict[str, torch.Tensor]:
        """Load the network's parameters and buffers after the last epoch.

        Raises:
            FileNotFoundError: the ledger keeps no weights of this grid.
        """
        return load_weights(self.weights_path)

    def classifier(self, dataset: Dataset) -> Classifier:
        """Load the trained network of the last epoch, in evaluation mode.

        Args:
            dataset: the one that it was trained on, or another part of it.

        Raises:
            ValueError: another data set, or weights of another model, of other classes or other images than it has.
            FileNotFoundError: the ledger keeps no weights of this grid.
        """
        if dataset.name != self.config["dataset"]:
            raise ValueError(f"dataset must be {self.config['dataset']} for {self.weights_path}, got {dataset.name}")
        classifier, weights = build(self.config["model"], dataset), self.weights()
        try:
            classifier.load_state_dict(weights)
        except RuntimeError as error:
            wanted = f"{self.config['model']} for the images and {dataset.classes} classes of {dataset.name}"
            found = f"{len(weights.get('head.bias', ()))} classes; {str(error).splitlines()[1].strip()[:160]}"
            raise ValueError(f"{self.weights_path} must hold the weights of {wanted}, got {found}") from None
        return classifier.eval()


@dataclass(frozen=True, kw_only=True)
class RunRecord(Run):
    """A finished run with its place in a grid, as the ledger, tables and figures take it.

    A configuration does not say which variant of a grid it is, so a run has a place only where a path gives it one.

    Args:
        dataset, model, variant, seed: the place.
    """

    dataset: str
    model: str
    variant: str
    seed: int

    @property
    def path(self) -> Path:
        """The run's path below the folder of its grid."""
        return run_path(self.dataset, self.model, self.variant, self.seed)


def load_run(folder: str | Path) -> Run:
    """Load a finished run from a folder of any name.

    Args:
        folder: of the run.

    Returns:
        The run without a place in a grid, even where the folder's path says one.

    Raises:
        FileNotFoundError: the folder holds no run, or an unfinished one.
        ValueError: a file in it is damaged.

    An example::

        run = load_run("runs/try")
        classifier = run.classifier(data.load("digits"))
    """
    folder = Path(folder)
    config, metrics, environment = (read_json(folder / name) for name in (CONFIG, METRICS, ENVIRONMENT))
    return Run(
        config=config,
        metrics=metrics,
        history=_read_history(folder / HISTORY),
        environment=environment,
        embeddings_path=folder / EMBEDDINGS,
        weights_path=folder / CHECKPOINT,
    )


def _read_history(path: Path) -> list[dict[str, float | None]]:
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [
                {name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)
            ]
        except (ValueError, TypeError, csv.Error) as error:  # no number, other columns, bytes that are no text
            raise ValueError(f"{path} must hold a row of numbers for each epoch, and cannot be read: {error}") from None


def run_path(dataset: str, model: str, variant: str, seed: int) -> Path:
    """Return the path of a run below the folder of its grid.

    Raises:
        ValueError: a name is not that of one folder, so that the path would lead elsewhere.

    >>> run_path("digits", "vit-tiny", "erm", 3)
    PosixPath('digits/vit-tiny/erm/seed3')
    """
    for parameter, name in (("dataset", dataset), ("model", model), ("variant", variant)):
        if name in ("", "..") or name != Path(name).name:
            raise ValueError(f"{parameter} must be the name of a folder in the path of a run, got {name!r}")
    return Path(dataset, model, variant, f"seed{seed}")


def parse_run_path(path: Path) -> dict[str, str | int]:
    """Return what the path of a run says of its place in a grid.

    Args:
        path: `<dataset>/<model>/<variant>/seed<k>`, with or without a suffix and with folders before it or not.

    Raises:
        ValueError: the path is not of this form.

    >>> parse_run_path(Path("runs/small/digits/vit-tiny/erm/seed3"))
    {'dataset': 'digits', 'model': 'vit-tiny', 'variant': 'erm', 'seed': 3}
    """
    parts = path.absolute().parts[-4:]
    seed = parts[-1].removesuffix(path.suffix).removeprefix("seed")
    if len(parts) < 4 or not parts[-1].startswith("seed") or not seed.isdecimal():
        raise ValueError(f"path must end in <dataset>/<model>/<variant>/seed<k>, got {str(path)!r}")
    place = {"dataset": parts[0], "model": parts[1], "variant": parts[2], "seed": int(seed)}
    run_path(**place)
    return place
