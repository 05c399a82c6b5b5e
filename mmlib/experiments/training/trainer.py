"""The training loop."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mmlib._checks import check_int, check_range
from mmlib.experiments import data, models
from mmlib.experiments.evaluation.predictions import predict
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import Method
from mmlib.experiments.seeding import spawn_seeds
from mmlib.experiments.training import devices, distributed
from mmlib.experiments.training.checkpoints import Checkpoints, classifier_weights, first_line
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.optim import learning_rate, make_optimizer
from mmlib.experiments.training.resume import STATE_ERRORS, mismatch_reason, resume_identity
from mmlib.metrics import accuracy, alignment, uniformity

NUM_VALIDATIONS = 10  # evaluations of the validation split in a run
TERMINAL_SECONDS, LOG_SECONDS = 0.1, 300  # between two lines of progress


class Trainer:
    """The state of a training run; `state` and `restore` save it and bring it back exactly.

    Of several processes each takes its shard of every epoch, `batch_size` images a step, and draws its own mixtures;
    where a method decides by a coin how it mixes, every process tosses its own.

    Args:
        config: the settings that determine the result.
        dataset: as `load_data(config)` returns it.
        device: `cpu`, `cuda` or `cuda:<index>`.
        compile: whether to run the step under `torch.compile`, which takes a minute or more at first and rounds
            differently.

    Attributes:
        classifier: the network.
        method: the module around the classifier that returns the loss.
        step_module: `method`, wrapped for several processes and compiled where asked; what a step calls.
        optimizer: of the training.
        batches: of the training.
        history: a row for each finished epoch.
        peak_memory_mib: the most memory that training held, once it has ended.
        rank: of this process.
        world_size: the number of processes.

    Raises:
        ValueError: there is no such device.
    """

    def __init__(self, config: Config, dataset: data.Dataset, device: str = "cpu", *, compile: bool = False) -> None:
        devices.check_device(device)
        devices.use_ieee_float32()
        if config.precision == "bfloat16":
            devices.warn_if_bfloat16_is_emulated(device)
        self.config, self.dataset, self.device, self.compile = config, dataset, device, compile
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        seeds = spawn_seeds(config.seed, self.rank)
        self.order_generator = torch.Generator(device).manual_seed(seeds.order)
        self.augmentation_generator = torch.Generator(device).manual_seed(seeds.augmentation)
        classifier = build_classifier(config, dataset, seeds.weights)
        self.classifier = classifier.to(device, dtype).to(memory_format=torch.channels_last)
        self.method: Method = METHODS[config.method](self.classifier, seed=seeds.method, **config.options)
        self.step_module = self._wrap()
        self.optimizer = make_optimizer(config, self.classifier)
        self.batches = dataset.batches(
            device,
            config.batch_size,
            generator=self.order_generator,
            augmentation_generator=self.augmentation_generator,
            dtype=dtype,
            shard=(self.rank, self.world_size),
        )
        self.history: list[dict[str, float | None]] = []
        self.peak_memory_mib: float | None = None

    def _wrap(self) -> nn.Module:
        module = self.method
        if self.world_size > 1:  # the wrapper averages gradients over processes in the backward pass
            gpus = [torch.device(self.device)] if devices.device_type(self.device) == "cuda" else None
            module = DistributedDataParallel(module, device_ids=gpus, broadcast_buffers=False)
        return torch.compile(module) if self.compile else module

    def state(self) -> dict:
        """Return the content of a checkpoint; of several processes all must call this together."""
        buffers = {name: buffer.cpu() for name, buffer in self.method.named_buffers()}
        return {
            "resume_identity": resume_identity(self.config, self.dataset),
            "device_type": devices.device_type(self.device),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order_generator": self.order_generator.get_state(),
            "augmentation_generator": self.augmentation_generator.get_state(),
            "processes": distributed.all_gather_object(self.method.get_extra_state() | {"buffers": buffers}),
            "history": self.history,
        }

    def restore(self, state: dict) -> None:
        """Resume from the state of a checkpoint; generators and BatchNorm's statistics are each process's own.

        Raises:
            ValueError: the state is of another kind of device, whose generators draw other numbers, or is damaged.
        """
        if state["device_type"] != devices.device_type(self.device):
            raise ValueError(f"device must be {state['device_type']!r}, as for the checkpoint, got {self.device!r}")
        with _damaged_state_named():
            own = state["processes"][self.rank]
            self.method.load_state_dict(state["method"])
            self.method.set_extra_state(own)
            for name, buffer in self.method.named_buffers():
                buffer.copy_(own["buffers"][name])
            self.optimizer.load_state_dict(state["optimizer"])
            self.order_generator.set_state(state["order_generator"])
            self.augmentation_generator.set_state(state["augmentation_generator"])
            self.history = [dict(row) for row in state["history"]]

    def restore_result(self, state: dict) -> None:
        """Take the trained network and its history from a finished run's checkpoint, made on any device."""
        with _damaged_state_named():
            self.classifier.load_state_dict(classifier_weights(state))
            self.history = [dict(row) for row in state["history"]]
        self.classifier.eval()


@contextmanager
def _damaged_state_named() -> Iterator[None]:
    """Say in one line that a state does not fit; half of it may be restored, so that no other one is tried."""
    try:
        yield
    except STATE_ERRORS as error:
        raise ValueError(
            f"folder must hold a whole checkpoint, got a damaged one to remove: {first_line(error)}"
        ) from None


def build_classifier(config: Config, dataset: data.Dataset, seed: int) -> models.Classifier:
    """Build the network with initial weights from `seed`; no global generator is changed, on any device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed all GPUs' generators, too
        return models.build(config.model, dataset)


def train(
    config: Config,
    dataset: data.Dataset,
    *,
    device: str = "cpu",
    compile: bool = False,
    folder: str | Path | None = None,
    checkpoint_minutes: float = 5,
    checkpoint_epochs: int | None = None,
    max_minutes: float | None = None,
) -> Trainer:
    """Train for the whole schedule, resuming from the last checkpoint in `folder` if there is one.

    Args:
        device, compile: as in `Trainer`.
        folder: where checkpoints are kept; None keeps none.
        checkpoint_minutes, checkpoint_epochs: save after so many, whichever comes first; always after the first
            epoch and the last. A run that is killed loses the epochs since the last checkpoint.
        max_minutes: stop at a checkpoint, after one epoch at least, before an epoch that would not end in time.

    Returns:
        The finished run, with the classifier of the last epoch in evaluation mode.

    Raises:
        FloatingPointError: a loss is not finite; the message names the step, the method and the seed.
        TimeoutError: `max_minutes` are over; the same call resumes.
        OSError: a checkpoint could not be written.
        ValueError: an argument out of range; a checkpoint of another kind of device; processes that would resume from
            different checkpoints.

    >>> trainer = train(Config(dataset="digits", method="erm", epochs=1), data.load("digits"))
    >>> sorted(trainer.history[0])
    ['epoch', 'loss', 'lr', 'seconds', 'validation_accuracy', 'validation_alignment', 'validation_uniformity']
    """
    check_range(checkpoint_minutes=checkpoint_minutes)
    check_int(1, checkpoint_epochs=1 if checkpoint_epochs is None else checkpoint_epochs)
    if max_minutes is not None:
        check_range(-math.inf, max_minutes=max_minutes)
        if max_minutes <= 0:
            raise TimeoutError(f"max_minutes is {max_minutes:g}: no time is left")
    trainer = Trainer(config, dataset, device, compile=compile)
    devices.reset_peak_memory(device)
    # Leaving the context waits until the last file is written, also after an error.
    with Checkpoints(folder) if trainer.rank == 0 else nullcontext(Checkpoints(folder)) as checkpoints:
        _resume(trainer, checkpoints)
        _fit(trainer, checkpoints, checkpoint_minutes, checkpoint_epochs, max_minutes)
    distributed.barrier()  # torchrun ends all processes when one ends: none may before the file is written
    if len(trainer.history) < config.epochs:
        progress = f"{len(trainer.history)} of {config.epochs} epochs"
        raise TimeoutError(f"max_minutes is {max_minutes:g}: stopped after {progress}; run again to resume")
    trainer.peak_memory_mib = devices.peak_memory_mib(device)
    trainer.classifier.eval()
    return trainer


def _resume(trainer: Trainer, checkpoints: Checkpoints) -> None:
    """Restore the last checkpoint that fits; all processes must find the same one."""
    identity = resume_identity(trainer.config, trainer.dataset)
    if state := checkpoints.load(lambda state: mismatch_reason(state, identity)):
        trainer.restore(state)
    # Nobody goes on, and replaces a file, before everybody has read it.
    found = distributed.all_gather_object((len(trainer.history), identity))
    if any(other != found[0] for other in found):
        epochs = ", ".join(str(done) for done, _ in found)
        raise ValueError(f"processes must resume one run from a folder that they share, got runs of {epochs} epochs")


def _fit(
    trainer: Trainer,
    checkpoints: Checkpoints,
    save_minutes: float,
    save_epochs: int | None,
    max_minutes: float | None,
) -> None:
    """Train for the epochs that remain, or until the next one would not end in time; save checkpoints on the way."""
    last = trainer.config.epochs
    start = saved = distributed.broadcast_object(time.monotonic())
    epochs = range(len(trainer.history), last)
    if trainer.rank == 0:
        pause = TERMINAL_SECONDS if _is_watched() else LOG_SECONDS
        epochs = tqdm(epochs, desc=trainer.config.method, unit="epoch", mininterval=pause, miniters=1)
    for epoch in epochs:
        seconds = time.perf_counter()
        losses = train_epoch(trainer, epoch)
        losses = distributed.all_reduce_mean(losses).tolist()
        seconds = time.perf_counter() - seconds
        _check_finite(losses, trainer.config, epoch)
        epochs_done = epoch + 1
        trainer.history.append(
            {
                "epoch": epochs_done,
                "lr": trainer.optimizer.param_groups[0]["lr"],
                "loss": sum(losses) / len(losses),
                "seconds": seconds,
                **_validate(trainer, epochs_done % max(1, last // NUM_VALIDATIONS) == 0 or epochs_done == last),
            }
        )
        now = distributed.broadcast_object(time.monotonic())  # one clock: all processes save and stop together
        stop = max_minutes is not None and epochs_done < last and now - start + seconds > 60 * max_minutes
        save_due = now - saved >= 60 * save_minutes or (save_epochs is not None and epochs_done % save_epochs == 0)
        if stop or save_due or epochs_done in (1, last):
            state, saved = trainer.state(), now
            if trainer.rank == 0:
                checkpoints.save(state)
        if stop:
            break


def _is_watched() -> bool:
    """Say whether a line that moves is seen as one: in a terminal and in a notebook, but not in a file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def train_epoch(trainer: Trainer, epoch: int) -> Tensor:
    """Make one pass over the training images.

    Returns:
        The loss of every step, (steps,), left on the device, so that the host waits for nothing inside an epoch.
    """
    config, optimizer, steps = trainer.config, trainer.optimizer, len(trainer.batches)
    device_type = devices.device_type(trainer.device)
    losses = torch.empty(steps, dtype=torch.float64, device=trainer.device)
    trainer.step_module.train()
    for step, (images, labels) in enumerate(trainer.batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, (epoch + step / steps) / config.epochs)
        with torch.autocast(device_type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = trainer.step_module(images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        trainer.method.on_step_end()
        losses[step] = loss.detach()
    return losses


def _check_finite(losses: list[float], config: Config, epoch: int) -> None:
    for step, loss in enumerate(losses, start=epoch * len(losses)):
        if not math.isfinite(loss):
            at = f"step {step} of {config.method}, seed {config.seed}"
            raise FloatingPointError(f"the loss is {loss} at {at}; a lower lr may help")


def _validate(trainer: Trainer, enabled: bool) -> dict[str, float | None]:
    """Return metrics of the validation split; None for each where validation is off or there is no such split."""
    split = trainer.dataset.validation
    if not enabled or split is None:
        return dict.fromkeys(("validation_accuracy", "validation_alignment", "validation_uniformity"))
    embeddings, logits = predict(trainer.classifier, split, trainer.batches.batch_size)
    labels = split.labels.cpu()
    return {
        "validation_accuracy": float(accuracy(logits, labels)),
        "validation_alignment": float(alignment(embeddings, labels)),
        "validation_uniformity": float(uniformity(embeddings)),
    }
