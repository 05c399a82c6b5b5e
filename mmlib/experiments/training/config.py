"""The configuration of a run, and what must match for two runs to be the same."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from mmlib._checks import check_int, check_range, check_type
from mmlib.experiments import data, models
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import option_names
from mmlib.experiments.provenance import code_digest
from mmlib.experiments.training import distributed

QUARTERS = [0.25, 0.5, 0.75]


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run; where and how fast it runs is said elsewhere.

    Args:
        dataset: a name or a path that `data.load` takes.
        model: a name in `models.MODELS`.
        method: a name in `methods.METHODS`.
        options: of the method, such as {"num_mixtures": 100}.
        seed: of the split, the initial weights, the order of the data and all that the method draws.
        labelled_per_class: training images a class; None takes the data set's default.
        holdout_per_class: images a class taken from train as the validation split, where a data set has none.
        size: pixels on a side that a folder's images are brought to; None takes images of one size as they are.
        epochs: whole passes over the training images; the last one is evaluated.
        batch_size: m; None takes the data set's default.
        optimizer: `sgd`, or `adamw`, which decays no biases, norms and position embeddings (DeiT's published recipe).
        lr, momentum, weight_decay: of either; AdamW's β₁ is the momentum, its β₂ 0.999.
        schedule: `cosine` to zero, or `steps` (the papers'): a tenth at each of the milestones.
        milestones: of `steps`, as shares of the epochs.
        warmup_epochs: at first, in which the schedule is multiplied by a line from 0 to 1 (our choice).
        precision: `float32`, `float64`, or `bfloat16` for autocast with float32 weights.

    Raises:
        ValueError: a value that cannot be, with the name of the parameter and what it takes.

    >>> Config(dataset="digits", method="multimix", options={"num_mixtures": 100}).options
    {'num_mixtures': 100}
    """

    dataset: str = "digits"
    model: str = "preactresnet-small"
    method: str = "multimix"
    options: dict = field(default_factory=dict)
    seed: int = 0
    labelled_per_class: int | None = None
    holdout_per_class: int = 0
    size: int | None = None
    epochs: int = 100
    batch_size: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    milestones: list = field(default_factory=QUARTERS.copy)
    warmup_epochs: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            check_type(f.name, getattr(self, f.name), f.type)
        choices = {"model": models.MODELS, "method": METHODS, "optimizer": ("sgd", "adamw")}
        choices |= {"schedule": ("cosine", "steps"), "precision": ("float32", "float64", "bfloat16")}
        for name, takes in choices.items():
            if getattr(self, name) not in takes:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it takes {', '.join(takes)}")
        counts = {name: getattr(self, name) for name in ("epochs", "labelled_per_class", "size", "batch_size")}
        check_int(1, **{name: value for name, value in counts.items() if value is not None})
        check_int(seed=self.seed, holdout_per_class=self.holdout_per_class, warmup_epochs=self.warmup_epochs)
        check_range(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        if self.optimizer == "adamw" and self.momentum >= 1:
            raise ValueError(f"momentum is {self.momentum}; adamw takes a number below 1")
        self._check_schedule()
        takes = option_names(METHODS[self.method])
        for name in self.options.keys() - takes:
            raise ValueError(f"options has {name!r}; {self.method} takes {', '.join(sorted(takes)) or 'none'}")
        # The method checks its options' values itself: on an empty network, before anything is made.
        METHODS[self.method](nn.ParameterList([torch.zeros(1)]), **self.options)

    def _check_schedule(self) -> None:
        given = self.milestones
        if self.schedule != "steps" and given != QUARTERS:
            raise ValueError(f"milestones is {given!r}; only the schedule 'steps' takes any, not {self.schedule!r}")
        if not all(isinstance(x, float) and 0 < x < 1 for x in given) or given != sorted(set(given)):
            raise ValueError(f"milestones is {given!r}; it takes growing shares of the epochs between 0 and 1")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; it takes fewer than the {self.epochs} epochs")


def load_data(config: Config, *, root: str | Path = "data", workers: int = 0) -> data.Dataset:
    """The data set of a run; arguments and errors as those of `data.load`."""
    names = ("labelled_per_class", "holdout_per_class", "seed", "size")
    return data.load(config.dataset, root=root, workers=workers, **{name: getattr(config, name) for name in names})


def describe(config: Config, dataset: data.Dataset) -> dict:
    """What decides a result: the configuration, the data set by its name and fingerprint instead of by a path."""
    described = {**dataclasses.asdict(config), "dataset": dataset.name, "data": dataset.fingerprint}
    return json.loads(json.dumps(described))  # as files have it: a pair among the options is a list there


def resume_identity(config: Config, dataset: data.Dataset) -> dict:
    """What a run must find unchanged to go on from a checkpoint."""
    return describe(config, dataset) | {"code": code_digest(), "processes": distributed.processes()}


def difference(held: dict, expected: dict) -> tuple[str, object, object] | None:
    """The first parameter in which a run is not what is expected, and both its values; None if there is none.

    A parameter that `held` lacks has `Config`'s default: the run was made before there was one.

    >>> difference({"lr": 0.1}, {"lr": 0.1, "optimizer": "adamw"})
    ('optimizer', 'sgd', 'adamw')
    """
    held = dataclasses.asdict(Config()) | held
    return next(((name, held.get(name), value) for name, value in expected.items() if held.get(name) != value), None)


def differs(state: dict, expected: dict) -> str | None:
    """Why a run cannot go on from a checkpoint's state, in words; None if it can.

    Args:
        expected: as `resume_identity` or `describe` give it.
    """
    if not isinstance(state.get("resume_identity"), dict):
        return "is no checkpoint of a run"
    found = difference(state["resume_identity"], expected)
    return found and "was made with {} {!r}, not {!r}".format(*found)
