"""The configuration of a run: all settings that determine its result."""

import dataclasses
import functools
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path

from mmlib._checks import as_number, check_choice, check_int, check_range, check_type
from mmlib.experiments import data, models
from mmlib.experiments.methods import METHODS, check_options

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "steps")
PRECISIONS = ("float32", "float64", "bfloat16")
DEFAULT_MILESTONES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Config:
    """The settings that determine the result of a run.

    The device, the number of threads and the folder are arguments of `train` and of the command line.

    Args:
        dataset: a name or a path that `data.load` takes.
        model: a name in `models.MODELS`.
        method: a name in `methods.METHODS`.
        options: the method's keyword arguments, such as {"num_mixtures": 100}.
        seed: the seed of the split and, by `spawn_seeds`, of every random stream of the run.
        labelled_per_class: training images in each class; None takes the data set's default.
        holdout_per_class: images of each class moved from train to validation, where there is no validation split.
        size: pixels on a side to which a folder's images are resized; None takes images of one size as they are.
        epochs: passes over the training images; the network of the last one is evaluated.
        batch_size: images in a mini-batch, m, at most the training images of a process; None takes the data set's
            default, or all images where they are fewer.
        optimizer: `sgd`, or `adamw`, which spares biases, norms and position embeddings from weight decay.
        lr: the learning rate before the schedule and the warm-up.
        momentum: of SGD, or AdamW's β₁ (its β₂ is 0.999).
        weight_decay: the factor of the weight decay.
        schedule: `cosine` to zero, or `steps`, a tenth at each of the milestones (the papers' schedule).
        milestones: increasing fractions of the epochs, for `steps` alone.
        warmup_epochs: initial epochs in which the schedule is multiplied by a line from 0 to 1.
        precision: `float32`, `float64`, or `bfloat16` for autocast with float32 weights.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range.

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
    milestones: list = field(default_factory=lambda: list(DEFAULT_MILESTONES))
    warmup_epochs: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        # Values are kept as Python's own numbers: equal configurations are then equal in a file, too.
        for name, annotation in _annotations(type(self)).items():
            value = _plain(check_type(name, getattr(self, name), annotation))
            object.__setattr__(self, name, float(value) if annotation is float else value)
        check_choice("model", self.model, models.MODELS)
        check_choice("method", self.method, METHODS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_int(1, epochs=self.epochs)
        for name in ("labelled_per_class", "size", "batch_size"):
            if getattr(self, name) is not None:
                check_int(1, **{name: getattr(self, name)})
        check_int(seed=self.seed, holdout_per_class=self.holdout_per_class, warmup_epochs=self.warmup_epochs)
        check_range(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        if self.optimizer == "adamw" and self.momentum >= 1:
            raise ValueError(f"momentum must be a number below 1 for adamw, got {self.momentum}")
        self._check_schedule()
        check_options(self.method, self.options)

    def _check_schedule(self) -> None:
        milestones, default = self.milestones, list(DEFAULT_MILESTONES)
        if self.schedule != "steps" and milestones != default:
            raise ValueError(f"milestones must be {default} unless schedule is 'steps', got {milestones!r}")
        inside = all(isinstance(milestone, float) and 0 < milestone < 1 for milestone in milestones)
        if not inside or milestones != sorted(set(milestones)):
            raise ValueError(f"milestones must be increasing fractions between 0 and 1, got {milestones!r}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs ({self.epochs}), got {self.warmup_epochs}")


_annotations = functools.cache(typing.get_type_hints)  # milliseconds, and a grid has thousands of configurations


def _plain(value: object) -> object:
    """Convert numbers of NumPy and torch, also inside lists, tuples and dictionaries, to Python's."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    number = as_number(value)
    return value if number is None else number


def load_data(config: Config, *, root: str | Path = "data", workers: int = 0) -> data.Dataset:
    """Load the data set of a run; `root`, `workers` and errors are those of `data.load`."""
    return data.load(
        config.dataset,
        root=root,
        workers=workers,
        labelled_per_class=config.labelled_per_class,
        holdout_per_class=config.holdout_per_class,
        seed=config.seed,
        size=config.size,
    )


def result_config(config: Config, dataset: data.Dataset) -> dict:
    """Return all that determines a result: the configuration, and the data set by its name and its fingerprint."""
    content = dataclasses.asdict(config) | {"dataset": dataset.name, "data": dataset.fingerprint}
    return json.loads(json.dumps(content))  # as a file has it: a tuple among the options is a list there
