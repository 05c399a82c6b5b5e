"""The grids of `experiments.yml`: their cells, and the records that a ledger holds of them."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from mmbook.grid_schema import read_grids
from mmbook.ledger import find_runs
from mmbook.notebook import project_root
from mmlib._checks import nearest
from mmlib.experiments.evaluation import ood
from mmlib.experiments.runs import RunRecord, run_path
from mmlib.experiments.training.config import Config, load_data
from mmlib.experiments.training.resume import DEFAULTS, first_mismatch


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Args:
        grid: the grid that the cell is planned in, whose folder holds its run and its record.
        parameters: by name, of the notebook or command that runs the cell; those of `Config` decide the result.
        processes: how many processes run the cell together, each on a GPU of its own.
        nodes: how many machines these processes are spread over.
        stage: the folder or file of data that is copied to the machine's own disk before; none where empty.
        resources: what a cluster is asked for, `minutes` and `memory_mib`; a day and 8 GiB where empty.

    >>> cells("embedded")[0].path
    PosixPath('digits/preactresnet-small/mixup/seed0')
    """

    grid: str
    dataset: str
    variant: str
    seed: int
    parameters: dict
    processes: int = 1
    resources: dict = dataclasses.field(default_factory=dict)
    nodes: int = 1
    stage: str = ""

    def __post_init__(self) -> None:
        if self.processes % self.nodes:
            raise ValueError(f"processes must be a multiple of the {self.nodes} nodes, got {self.processes}")
        if self.stage:
            root, dataset = self.parameters.get("root", "data"), self.parameters["dataset"]
            if not any(Path(place).is_relative_to(self.stage) for place in (root, dataset)):
                raise ValueError(f"stage must be root {root!r}, dataset {dataset!r} or above, got {self.stage!r}")

    @cached_property
    def path(self) -> Path:
        """The cell's folder, relative to the grid's folder."""
        return run_path(self.dataset, self.parameters["model"], self.variant, self.seed)

    @cached_property
    def config(self) -> Config:
        """The configuration, which decides the cell's result."""
        return Config(**self.settings)

    @property
    def settings(self) -> dict:
        """All fields of `Config` by name, unchecked: a variant's first cell has passed the checks for all its seeds."""
        return DEFAULTS | {name: value for name, value in self.parameters.items() if name in DEFAULTS}

    @property
    def gpus(self) -> int:
        """How many GPUs the cell occupies while it runs."""
        return self.processes if str(self.parameters.get("device", "cpu")).startswith("cuda") else 0

    @property
    def cores(self) -> int:
        """How many cores the cell occupies on each machine, one for each thread and for each reader of images."""
        threads, workers = self.parameters.get("threads") or 1, self.parameters.get("workers", 0)
        return self.processes // self.nodes * (threads + workers)


class GridRecords(NamedTuple):
    """The records of a grid.

    Args:
        records: complete records that match their cell.
        missing: cells without such a record.
        rejected: a line for each file that was left out, with the reason.
    """

    records: list
    missing: list
    rejected: list[str]


def read_text(name: str) -> str:
    """Read a file of grids from the root of the clone.

    Raises:
        FileNotFoundError: the current folder lies in no clone of the repository.
    """
    path = project_root() / name
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; grids are read in a clone of the repository")
    return path.read_text(encoding="utf-8")


def load_grids() -> dict[str, dict]:
    """Load all grids of `experiments.yml`, by name; nothing may change them.

    Raises:
        FileNotFoundError: the current folder lies in no clone of the repository.
        ValueError: the file does not fit the schema of `mmbook.grid_schema`; the message names the line.
    """
    return _checked(read_text("experiments.yml"))


_checked = cache(read_grids)  # every caller reads the whole file


def cells(grid: str) -> list[Cell]:
    """List the cells of a grid in the order in which they run: all variants of one seed before the next seed.

    Cells that the grid takes from another one keep that grid's name, folder and settings: they are run once for both.

    Raises:
        ValueError: there is no such grid, or two of its cells have one path.
    """
    grids = load_grids()
    if grid not in grids:
        known = f"one of {', '.join(grids)} (experiments.yml)"
        raise ValueError(f"grid must be {known}, got {grid!r}{nearest(grid, grids)}")
    content = grids[grid]
    planned = _own_cells(grid, content)
    for source, variants in content.get("from", {}).items():
        if source not in grids:
            raise ValueError(f"{grid}.from must name grids, got {source!r}{nearest(source, grids)}")
        planned += [c for c in cells(source) if c.variant in variants and c.seed in content["seeds"]]
    if doubled := [str(path) for path, count in Counter(cell.path for cell in planned).items() if count > 1]:
        raise ValueError(f"grid {grid} must have one cell for each path, got several for {doubled[0]}")
    return sorted(planned, key=lambda cell: cell.seed)


def _own_cells(grid: str, content: dict) -> list[Cell]:
    planned = []
    variants = _crossed(content.get("variants", {}), content.get("cross", {}))
    for dataset, of_dataset in content.get("datasets", {}).items():
        chosen = of_dataset.get("only", list(variants))
        if unknown := [variant for variant in chosen if variant not in variants]:
            got = f"{unknown[0]!r}{nearest(unknown[0], variants)}"
            raise ValueError(f"{grid}.datasets.{dataset}.only must name variants of the grid, got {got}")
        for variant in chosen:
            levels = ({"dataset": dataset}, content.get("settings", {}), of_dataset, variants[variant])
            planned += _cells_of_variant(grid, dataset, variant, levels, content["seeds"])
    return planned


def _cells_of_variant(grid: str, dataset: str, variant: str, levels: Sequence[dict], seeds: list[int]) -> list[Cell]:
    """The cells of one variant; of its settings and resources, a later level replaces those of an earlier one."""
    settings = {name: value for level in levels for name, value in level.items() if name not in ("only", "resources")}
    resources = {name: value for level in levels for name, value in level.get("resources", {}).items()}
    of_machines = {name: settings.pop(name) for name in ("processes", "nodes", "stage") if name in settings}
    seeds = settings.pop("seeds", seeds)

    def cell(seed: int) -> Cell:
        return Cell(grid, dataset, variant, seed, settings | {"seed": seed}, resources=resources, **of_machines)

    try:
        planned = [cell(seed) for seed in seeds]
        _ = planned[0].config
    except (TypeError, ValueError) as error:
        raise ValueError(f"{grid}.variants.{variant} on {dataset}: {error}") from None
    return planned


def _crossed(variants: dict[str, dict], cross: dict[str, list]) -> dict[str, dict]:
    """Every variant with every value of every crossed setting, such as `erm-lr0.3` of `erm` and `lr: [0.1, 0.3]`."""
    for name, values in cross.items():
        variants = {f"{v}-{name}{x}": settings | {name: x} for x in values for v, settings in variants.items()}
    return variants


def missing_datasets(cells: list[Cell]) -> dict[str, str]:
    """Find the data sets that cells need and that are not there; torchvision downloads its own on the way.

    Returns:
        The reason for each missing data set, by the data set's name in the grid.

    Raises:
        ValueError: a data set is there and cannot be used.
    """
    reasons = {}
    for cell in {cell.dataset: cell for cell in reversed(cells)}.values():  # the first cell of each
        root = cell.parameters.get("root", "data")
        try:
            test = load_data(cell.config, root=root).test
            for name in cell.parameters.get("out_sets", []):
                ood.load_ood_images(name, test, 1, root=root)
        except (ImportError, OSError) as error:
            reasons[cell.dataset] = str(error)
    return reasons


def match_cells(
    records: Sequence, cells: Sequence, mismatch: Callable[..., tuple[str, object, object] | None], rejected: list[str]
) -> GridRecords:
    """Match records with the cells of a grid by their `path`.

    A record without a cell, or of another configuration than its cell's, is rejected.

    Args:
        mismatch: of a record and its cell, returns a parameter in which they differ with both its values, or None.
        rejected: lines for files that were left out before.
    """
    planned = {cell.path: cell for cell in cells}
    matching, rejected = [], list(rejected)
    for record in records:
        if record.path not in planned:
            rejected.append(f"{record.path} is left out: the grid has no such cell")
        elif found := mismatch(record, planned[record.path]):
            name, stored, wanted = found
            rejected.append(f"{record.path} is left out: {name} is {stored!r}, the grid has {wanted!r}")
        else:
            matching.append(record)
    recorded = {record.path for record in matching}
    return GridRecords(matching, [cell for path, cell in planned.items() if path not in recorded], rejected)


def grid_records(grid: str, root: Path | str = "book/results") -> GridRecords:
    """Read the records of a grid from `root`; a record that does not match its cell is listed, never averaged.

    Args:
        root: the ledger, with a folder for each grid; a relative path starts at the root of the clone.
    """
    found = GridRecords([], [], [])
    of_grid: dict[str, list[Cell]] = {grid: []}
    for cell in cells(grid):
        of_grid.setdefault(cell.grid, []).append(cell)
    for source, planned in of_grid.items():
        records, rejected = find_runs(project_root() / root / source)
        if source != grid:  # the other grid has cells that this one does not take
            paths = {cell.path for cell in planned}
            records, rejected = [record for record in records if record.path in paths], []
        for total, part in zip(found, match_cells(records, planned, mismatch, rejected)):
            total += part
    return found


def mismatch(record: RunRecord, cell: Cell) -> tuple[str, object, object] | None:
    """Find a parameter in which a record differs from its cell, with both values; None where it fits."""
    stored = record.config | {"processes": record.environment.get("processes", 1)}
    expected = cell.settings | {"processes": cell.processes}
    return first_mismatch(stored, expected | {"dataset": stored["dataset"]})  # a path there, a name in the record
