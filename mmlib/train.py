"""One run: its configuration, the loop, checkpoints."""

import dataclasses
import json
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mmlib import data, distributed, models
from mmlib.checkpoints import Checkpoints
from mmlib.methods import METHODS
from mmlib.methods.objective import Objective, option_names
from mmlib.metrics import accuracy, alignment, uniformity
from mmlib.parameters import check_number, check_type, check_whole
from mmlib.provenance import code_digest

QUARTERS = [0.25, 0.5, 0.75]
RANKS_APART = 1_000_000  # seeds of a distributed run's processes; torch's CPU generator heeds 32 bits of a seed
LOOKS = 10  # times that a run looks at the validation set


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run; where and how fast it runs is said elsewhere.

    Args:
        dataset: a name or a path that `data.load` takes.
        model: a name in `models.MODELS`.
        method: a name in `methods.METHODS`.
        options: of the method, such as {"n": 100}.
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

    >>> Config(dataset="digits", method="multimix", options={"n": 100}).options
    {'n': 100}
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
        check_whole(1, **{name: value for name, value in counts.items() if value is not None})
        check_whole(seed=self.seed, holdout_per_class=self.holdout_per_class, warmup_epochs=self.warmup_epochs)
        check_number(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
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


def learning_rate(config: Config, progress: float) -> float:
    """The learning rate once `progress`, from 0 to 1, of the training is done.

    >>> [round(learning_rate(Config(lr=0.1, schedule="steps"), p), 6) for p in (0, 0.25, 0.5, 0.75)]
    [0.1, 0.01, 0.001, 0.0001]
    """
    warmth = progress * config.epochs / config.warmup_epochs if config.warmup_epochs else 1
    if config.schedule == "steps":
        decay = 0.1 ** sum(progress >= milestone for milestone in config.milestones)
    else:
        decay = (1 + math.cos(math.pi * progress)) / 2
    return config.lr * min(1, warmth) * decay


def make_optimizer(config: Config, classifier: models.Classifier) -> torch.optim.Optimizer:
    """SGD with momentum over all parameters alike, or AdamW that decays matrices and convolutions alone.

    The latter is DeiT's published recipe (Touvron et al., ICML 2021), as timm's `param_groups_weight_decay` reads it.
    """
    same = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(classifier.parameters(), momentum=config.momentum, **same)
    decayed, others = [], []
    for name, parameter in classifier.named_parameters():
        (others if parameter.ndim < 2 or name.endswith("places") else decayed).append(parameter)
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(config.momentum, 0.999), **same)


class Training:
    """A run under way: what its checkpoint saves, so that it goes on as if it had never stopped.

    Of several processes each takes its share of every epoch's images, m of them a step, and draws its own mixtures.

    Args:
        config: of the run.
        dataset: as `data.load(config.dataset, ...)` gives it.
        device: `cpu` or `cuda`.
        compile: whether `torch.compile` makes the step, which takes a minute or more at first and rounds otherwise.
    """

    def __init__(self, config: Config, dataset: data.Dataset, device: str = "cpu", *, compile: bool = False) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            classifier = models.build(config.model, dataset)
        self.classifier = classifier.to(device, dtype).to(memory_format=torch.channels_last)
        rank, count = share = distributed.rank(), distributed.processes()
        seed = config.seed + RANKS_APART * rank
        self.objective: Objective = METHODS[config.method](self.classifier, seed=seed, **config.options)
        # Gradients are averaged over processes in the backward pass of what wraps the objective, and nowhere else.
        self.loss = DistributedDataParallel(self.objective, broadcast_buffers=False) if count > 1 else self.objective
        if compile:
            self.loss = torch.compile(self.loss)
        self.optimizer = make_optimizer(config, self.classifier)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.batches = dataset.batches(device, config.batch_size, generator=self.generator, dtype=dtype, share=share)
        self.history: list[dict[str, float | None]] = []

    def state(self) -> dict:
        """What a checkpoint holds; of several processes all must ask for it together."""
        buffers = {name: buffer.cpu() for name, buffer in self.objective.named_buffers()}
        return {
            "made_by": made_by(self.config, self.dataset),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "processes": distributed.gather(self.objective.get_extra_state() | {"buffers": buffers}),
            "history": self.history,
        }

    def restore(self, state: dict) -> None:
        """Go on from a checkpoint's state; generators and BatchNorm's statistics are each process's own."""
        own = state["processes"][distributed.rank()]
        self.objective.load_state_dict(state["objective"])
        self.objective.set_extra_state(own)
        for name, buffer in self.objective.named_buffers():
            buffer.copy_(own["buffers"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.history = list(state["history"])


def load_data(config: Config, *, root: str | Path = "data", workers: int = 0) -> data.Dataset:
    """The data set of a run; arguments and errors as those of `data.load`."""
    names = ("labelled_per_class", "holdout_per_class", "seed", "size")
    return data.load(config.dataset, root=root, workers=workers, **{name: getattr(config, name) for name in names})


def describe(config: Config, dataset: data.Dataset) -> dict:
    """What decides a result: the configuration, the data set by its name and fingerprint instead of by a path."""
    described = {**dataclasses.asdict(config), "dataset": dataset.name, "data": dataset.fingerprint}
    return json.loads(json.dumps(described))  # as files have it: a pair among the options is a list there


def made_by(config: Config, dataset: data.Dataset) -> dict:
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
        expected: as `made_by` or `describe` give it.
    """
    if not isinstance(state.get("made_by"), dict):
        return "is no checkpoint of a run"
    found = difference(state["made_by"], expected)
    return found and "was made with {} {!r}, not {!r}".format(*found)


def train(
    config: Config,
    dataset: data.Dataset,
    *,
    device: str = "cpu",
    compile: bool = False,
    folder: Path | None = None,
    checkpoint_minutes: float = 5,
    checkpoint_epochs: int | None = None,
    max_minutes: float | None = None,
) -> Training:
    """Train for the whole schedule, or go on from the last checkpoint in `folder` if there is one.

    Args:
        device, compile: as in `Training`.
        folder: where checkpoints are kept; None keeps none.
        checkpoint_minutes, checkpoint_epochs: save after so many, whichever comes first; always after the first
            epoch and the last. A run that is killed loses what came since.
        max_minutes: stop at a checkpoint, after an epoch at least, before one that would not end in time.

    Returns:
        The finished run, with its classifier of the last epoch and its history, one row an epoch.

    Raises:
        FloatingPointError: a loss that is not finite, with its step, method and seed.
        TimeoutError: `max_minutes` are over; the same call goes on.
        OSError: a checkpoint could not be written.

    >>> run = train(Config(dataset="digits", method="erm", epochs=1), data.load("digits"))
    >>> sorted(run.history[0])
    ['epoch', 'loss', 'lr', 'seconds', 'validation_accuracy', 'validation_alignment', 'validation_uniformity']
    """
    if max_minutes is not None and max_minutes <= 0:
        raise TimeoutError(f"max_minutes is {max_minutes:g}: no time is left")
    run = Training(config, dataset, device, compile=compile)
    expected = made_by(config, dataset)
    # Leaving the context waits for the last file to be written, also where the loop is interrupted.
    with Checkpoints(folder) if distributed.rank() == 0 else nullcontext(Checkpoints(folder)) as checkpoints:
        if state := checkpoints.load(lambda state: differs(state, expected)):
            run.restore(state)
        distributed.gather(None)  # nobody replaces a file that another process has not read yet
        _go_on(run, checkpoints, checkpoint_minutes, checkpoint_epochs, max_minutes)
    run.classifier.eval()
    return run


def _go_on(run: Training, kept: Checkpoints, minutes: float, every: int | None, max_minutes: float | None) -> None:
    last = run.config.epochs
    epochs = range(len(run.history), last)
    if distributed.rank() == 0:
        epochs = tqdm(epochs, desc=run.config.method, unit="epoch")
    start = saved = distributed.gather(time.monotonic())[0]
    for epoch in epochs:
        run.history.append(_epoch(run, epoch))
        done = epoch + 1
        now = distributed.gather(time.monotonic())[0]  # one clock, so that all processes save and stop together
        stop = max_minutes and done < last and now - start + run.history[-1]["seconds"] > 60 * max_minutes
        due = now - saved >= 60 * minutes or (every and done % every == 0)
        if stop or due or done in (1, last):
            state, saved = run.state(), now
            if distributed.rank() == 0:
                kept.save(state)
        if stop:
            raise TimeoutError(f"max_minutes is {max_minutes:g}: stopped after {done} of {last} epochs; run again")


def _epoch(run: Training, epoch: int) -> dict[str, float | None]:
    """Train for one epoch; its row of the history."""
    config = run.config
    start = time.perf_counter()
    losses = distributed.mean(train_epoch(run, epoch)).tolist()
    seconds = time.perf_counter() - start
    for step, loss in enumerate(losses, start=epoch * len(losses)):
        if not math.isfinite(loss):
            at = f"step {step} of {config.method}, seed {config.seed}"
            raise FloatingPointError(f"the loss is {loss} at {at}; a lower lr may help")
    look = (epoch + 1) % max(1, config.epochs // LOOKS) == 0 or epoch + 1 == config.epochs
    lr, mean = run.optimizer.param_groups[0]["lr"], sum(losses) / len(losses)
    return {"epoch": epoch + 1, "lr": lr, "loss": mean, "seconds": seconds} | _look(run, look)


def train_epoch(run: Training, epoch: int) -> Tensor:
    """One pass over the training images; the losses of its steps, left on the device."""
    config, loss_of, optimizer = run.config, run.loss.train(), run.optimizer
    losses = torch.empty(len(run.batches), dtype=torch.float64, device=run.device)
    for step, (images, labels) in enumerate(run.batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, (epoch + step / len(run.batches)) / config.epochs)
        with torch.autocast(torch.device(run.device).type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = loss_of(images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        run.objective.after_step()
        losses[step] = loss.detach()
    return losses


def _look(run: Training, now: bool) -> dict[str, float | None]:
    """The validation set's accuracy and the shape of its embeddings; None where this is no time to look."""
    names = ("validation_accuracy", "validation_alignment", "validation_uniformity")
    split = run.dataset.validation
    if not now or split is None:
        return dict.fromkeys(names)
    embeddings, logits = models.predict(run.classifier, split)
    values = accuracy(logits, split.labels), alignment(embeddings, split.labels), uniformity(embeddings)
    return dict(zip(names, values))
