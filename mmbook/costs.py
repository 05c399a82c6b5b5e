"""What grids cost: hours from the seconds of recorded epochs, and extrapolations to grids that nobody has run."""

from functools import cache
from statistics import median
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmbook import grids, progress
from mmbook.cluster import Job
from mmbook.grids import Cell
from mmlib.experiments.models import build
from mmlib.experiments.runs import RunRecord

# The grid whose records say what a GPU does: about so many runs shared one H200 by NVIDIA's MPS when they were made. No
# record holds the number.
MEASURED_ON_GPU, RUNS_AT_A_TIME = "cifar100-long", 13


class Images(NamedTuple):
    """The training images of a data set, as `mmlib.experiments.models.build` asks for them."""

    count: int
    classes: int
    size: int
    channels: int = 3
    moments: tuple = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


IMAGES = {
    "cifar10": Images(50_000, 10, 32),
    "cifar100": Images(50_000, 100, 32),
    "tinyimagenet": Images(100_000, 200, 64),
    "imagenet": Images(1_281_167, 1000, 224),
}


@cache
def operations(model: str, images: Images) -> int:
    """Count the floating-point operations that an image costs a network, forward and backward.

    >>> operations("preactresnet-small-s2", IMAGES["cifar100"]) < operations("preactresnet18", IMAGES["cifar100"])
    True
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        classifier = build(model, images)
        batch = torch.rand(2, images.channels, images.size, images.size)
        classifier(batch).sum().backward()
    return counter.get_total_flops() // 2


def training_images(cell: Cell) -> int:
    """Count the images of a cell's epoch."""
    images, settings = IMAGES[cell.dataset], cell.settings
    per_class = settings["labelled_per_class"]
    return images.classes * per_class if per_class else images.count - images.classes * settings["holdout_per_class"]


def method_factors(records: list[RunRecord]) -> dict[str, float]:
    """Say how many times as long as ERM's an epoch of each recorded method takes."""
    paces: dict[str, list[float]] = {}
    for record in records:
        pace = record.environment["train_seconds"] / record.config["epochs"]
        paces.setdefault(record.config["method"], []).append(pace)
    return {method: median(found) / median(paces["erm"]) for method, found in paces.items()}


def gpu_operations_per_second(records: list[RunRecord]) -> float:
    """How many operations a second the GPU of the records did in all, when so many runs of ERM shared it."""
    rates = [
        record.environment["images_per_second"] * operations(record.model, IMAGES[record.dataset])
        for record in records
        if record.config["method"] == "erm" and record.environment["device_type"] == "cuda"
    ]
    return RUNS_AT_A_TIME * median(rates)


def extrapolated_gpu_hours(cell: Cell, factors: dict[str, float], per_second: float) -> float:
    """Extrapolate the GPU-hours of a cell from the operations that its training takes.

    Args:
        factors: of the methods; one without a factor counts as the costliest that has one.
        per_second: operations, of one GPU.
    """
    factor = factors.get(cell.settings["method"], max(factors.values()))
    images = cell.settings["epochs"] * training_images(cell)
    return factor * images * operations(cell.settings["model"], IMAGES[cell.dataset]) / per_second / 3600


def extrapolated_jobs(grid: str, factors: dict[str, float], per_second: float) -> list[Job]:
    """The cells of a grid on GPUs, as jobs of the simulated cluster."""
    cells = grids.cells(grid)
    return [Job(extrapolated_gpu_hours(cell, factors, per_second) / cell.gpus, cell.gpus) for cell in cells]


def recorded_hours(grid: str, kind: str) -> tuple[float, int] | None:
    """Add up the hours of all cells of a grid from its own records.

    Args:
        kind: of the records' device, `cpu` or `cuda`; on a GPU the hours are the card's, which runs shared.

    Returns:
        The hours and the number of records that they are from; None where there is none of that kind.
    """
    records = [r for r in grids.grid_records(grid).records if r.environment.get("device_type", "cpu") == kind]
    if not records:
        return None
    paces = progress.recorded_paces(records)
    seconds = sum(cell.settings["epochs"] * progress.nearest_pace(cell, paces) for cell in grids.cells(grid))
    return seconds / 3600 / (RUNS_AT_A_TIME if kind == "cuda" else 1), len(records)
