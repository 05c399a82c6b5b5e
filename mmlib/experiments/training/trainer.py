"""The training loop."""

import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mmlib.experiments import data, models
from mmlib.experiments.evaluation.predictions import predict
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import Method
from mmlib.experiments.training import distributed
from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config, differs, resume_identity
from mmlib.experiments.training.optim import learning_rate, make_optimizer
from mmlib.metrics import accuracy, alignment, uniformity

RANKS_APART = 1_000_000  # seeds of a distributed run's processes; torch's CPU generator heeds 32 bits of a seed


LOOKS = 10  # times that a run looks at the validation set


class Trainer:
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
        self.objective: Method = METHODS[config.method](self.classifier, seed=seed, **config.options)
        # Gradients are averaged over processes in the backward pass of what wraps the objective, and nowhere else.
        self.loss = DistributedDataParallel(self.objective, broadcast_buffers=False) if count > 1 else self.objective
        if compile:
            self.loss = torch.compile(self.loss)
        self.optimizer = make_optimizer(config, self.classifier)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.batches = dataset.batches(device, config.batch_size, generator=self.generator, dtype=dtype, shard=share)
        self.history: list[dict[str, float | None]] = []

    def state(self) -> dict:
        """What a checkpoint holds; of several processes all must ask for it together."""
        buffers = {name: buffer.cpu() for name, buffer in self.objective.named_buffers()}
        return {
            "resume_identity": resume_identity(self.config, self.dataset),
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
) -> Trainer:
    """Train for the whole schedule, or go on from the last checkpoint in `folder` if there is one.

    Args:
        device, compile: as in `Trainer`.
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
    run = Trainer(config, dataset, device, compile=compile)
    expected = resume_identity(config, dataset)
    # Leaving the context waits for the last file to be written, also where the loop is interrupted.
    with Checkpoints(folder) if distributed.rank() == 0 else nullcontext(Checkpoints(folder)) as checkpoints:
        if state := checkpoints.load(lambda state: differs(state, expected)):
            run.restore(state)
        distributed.gather(None)  # nobody replaces a file that another process has not read yet
        _go_on(run, checkpoints, checkpoint_minutes, checkpoint_epochs, max_minutes)
    run.classifier.eval()
    return run


def _go_on(run: Trainer, kept: Checkpoints, minutes: float, every: int | None, max_minutes: float | None) -> None:
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


def _epoch(run: Trainer, epoch: int) -> dict[str, float | None]:
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


def train_epoch(run: Trainer, epoch: int) -> Tensor:
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
        run.objective.on_step_end()
        losses[step] = loss.detach()
    return losses


def _look(run: Trainer, now: bool) -> dict[str, float | None]:
    """The validation set's accuracy and the shape of its embeddings; None where this is no time to look."""
    names = ("validation_accuracy", "validation_alignment", "validation_uniformity")
    split = run.dataset.validation
    if not now or split is None:
        return dict.fromkeys(names)
    embeddings, logits = predict(run.classifier, split)
    values = accuracy(logits, split.labels), alignment(embeddings, split.labels), uniformity(embeddings)
    return dict(zip(names, values))
