"""Finished runs as tables and pictures see them: their folders, which `mmlib.experiments.runs` writes, are read here."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.models.classifier import Classifier
from mmlib.experiments.models.registry import build

CLASSIFIER = "classifier."  # what the names of its part of an objective's state begin with


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
    """The record of a finished run's folder.

    Raises:
        FileNotFoundError: it holds no run, or one that is not finished.
    """
    parts = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "metrics", "environment")}
    with (folder / "history.csv").open() as file:
        history = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    beside = {"embeddings_path": folder / "embeddings.npz", "weights_path": folder / "checkpoint.pt"}
    return Record(**place_of(folder), **parts, history=history, **beside)


def place_of(path: Path) -> dict[str, str | int]:
    """Where `<dataset>/<model>/<variant>/seed<k>` stands in its grid."""
    dataset, model, variant, seed = path.absolute().with_suffix("").parts[-4:]
    return {"dataset": dataset, "model": model, "variant": variant, "seed": int(seed.removeprefix("seed"))}
