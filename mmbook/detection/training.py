"""Training and evaluation of a detector."""

import math
import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mmbook.detection.config import Config
from mmbook.detection.detectors import seeded
from mmbook.scenes import Example, Scenes
from mmlib.experiments.data.streaming import raise_returned
from mmlib.experiments.seeding import spawn_seeds

AUGMENTATION = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.SanitizeBoundingBoxes(labels_getter=lambda target: (target[1]["labels"], target[1]["iscrowd"])),
        v2.ToDtype(torch.float32, scale=True),
    ]
)

Boxes = list[dict[str, Tensor]]  # of each image its `boxes`, `labels` and what else is known of them


def augment(examples: list[Example]) -> tuple[list[Tensor], Boxes]:
    """Make a mini-batch of examples: images in [0, 1], each mirrored with probability 1/2, and their boxes.

    Objects that are marked as crowd are left out.
    """
    images, targets = zip(*(AUGMENTATION(*example) for example in examples))
    kept = [{name: target[name][target["iscrowd"] == 0] for name in ("boxes", "labels")} for target in targets]
    return [image.as_subclass(Tensor) for image in images], kept


class _ReturningErrors(Dataset):
    """The examples of a split; in the place of one that cannot be read its error, which `raise_returned` raises."""

    def __init__(self, split: Dataset) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Example | ValueError:
        try:
            return self.split[index]
        except ValueError as error:
            return error


def _augment_unless_error(examples: list[Example | ValueError]) -> tuple[list[Tensor], Boxes] | ValueError:
    errors = [example for example in examples if isinstance(example, ValueError)]
    return errors[0] if errors else augment(examples)


def train(detector: nn.Module, config: Config, data: Scenes, *, workers: int = 0) -> list[dict]:
    """Train a detector on its own device for the whole schedule.

    Args:
        workers: processes that read images.

    Returns:
        One row of history for each epoch.

    Raises:
        FloatingPointError: a loss is not finite; the message has its step, detector and seed.
        ValueError: a picture cannot be read, by its file; or there are fewer than a mini-batch has.
    """
    seeds = spawn_seeds(config.seed)
    if len(data.train) < config.batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(data.train)} images of {data.name}, got {config.batch_size}"
        )
    batches = DataLoader(
        _ReturningErrors(data.train),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=_augment_unless_error,
        num_workers=workers,
        generator=torch.Generator().manual_seed(seeds.order),
    )
    optimizer = torch.optim.AdamW(detector.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, config.epochs * len(batches), pct_start=0.2, cycle_momentum=False
    )
    history = []
    # The detector's own draws and, without workers, the augmentation's come from the default generators.
    with seeded(seeds.method, next(detector.parameters()).device):
        for epoch in range(config.epochs):
            start, lr, losses = time.perf_counter(), schedule.get_last_lr()[0], []
            for images, targets in raise_returned(batches):
                losses.append(_step(detector, images, targets, optimizer))
                schedule.step()
            values = torch.stack(losses).tolist()  # the epoch's one wait for the device
            for step, value in enumerate(values, start=epoch * len(batches)):
                if not math.isfinite(value):
                    at = f"step {step} of {config.detector}, seed {config.seed}"
                    raise FloatingPointError(f"the loss is not finite at {at}; a lower lr may help")
            seconds = time.perf_counter() - start
            history.append({"epoch": epoch + 1, "lr": lr, "loss": sum(values) / len(values), "seconds": seconds})
    detector.eval()
    return history


def _step(detector: nn.Module, images: list[Tensor], targets: Boxes, optimizer: torch.optim.Optimizer) -> Tensor:
    parameter = next(detector.parameters())
    targets = [{name: _move(value, parameter) for name, value in target.items()} for target in targets]
    loss = sum(detector([_move(image, parameter) for image in images], targets).values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def _move(value: Tensor, parameter: Tensor) -> Tensor:
    """Move a tensor to a parameter's device; a floating-point tensor takes its precision too."""
    return value.to(parameter.device, parameter.dtype if value.is_floating_point() else value.dtype)


@torch.no_grad()
def predict(detector: nn.Module, split: Dataset, batch_size: int = 50) -> tuple[Boxes, Boxes]:
    """Find the objects in every image of a split, with the detector in evaluation mode.

    Returns:
        The predicted boxes, labels and scores of each image, on the CPU, and the targets.
    """
    parameter, predictions, targets = next(detector.parameters()), [], []
    detector.eval()
    # A generator of its own, for a loader without one draws from the default generator.
    for examples in DataLoader(split, batch_size, collate_fn=list, generator=torch.Generator()):
        images = [_move(image.as_subclass(Tensor).float() / 255, parameter) for image, _ in examples]
        predictions += [{name: value.cpu() for name, value in found.items()} for found in detector(images)]
        targets += [target for _, target in examples]
    return predictions, targets


def mean_average_precision(predictions: Boxes, targets: Boxes, classes: int) -> dict[str, float | list | None]:
    """Compute COCO's mAP in percent by torchmetrics: over IoU 0.5 to 0.95 (`map`), at 0.5 and at 0.75.

    Args:
        predictions, targets: as `predict` returns them; objects marked `iscrowd` count neither as found nor as missed.
        classes: the number of classes, c.

    Returns:
        The numbers by name; `class_map` is a list with one number for each class. None stands for the mAP of no object.

    Source: Lin et al. (ECCV 2014).

    >>> targets = [{"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]), "labels": torch.tensor([1])}]
    >>> mean_average_precision([targets[0] | {"scores": torch.ones(1)}], targets, 1)["map"]
    100.0
    """
    if not targets:
        raise ValueError("targets must have one picture or more, got none")
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(class_metrics=True)
    metric.update(predictions, targets)
    values = metric.compute()
    by_label = dict(zip(values["classes"].view(-1).tolist(), values["map_per_class"].view(-1).tolist()))
    numbers = {name: _percent(values[name].item()) for name in ("map", "map_50", "map_75")}
    return numbers | {"class_map": [_percent(by_label.get(label, -1)) for label in range(1, classes + 1)]}


def _percent(value: float) -> float | None:
    """Percent of a share; None for torchmetrics' -1, which stands for no object."""
    return None if value < 0 else 100 * value
