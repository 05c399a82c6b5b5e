"""The grids of `experiments.yml`: their cells, and what a ledger holds of them."""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmbook.ledger import collect
from mmbook.notebook import project_root
from mmlib.experiments.evaluation import ood
from mmlib.experiments.runs.reader import Record
from mmlib.experiments.training.config import Config, difference, load_data


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Args:
        parameters: of the notebook or command that runs it, by name; those of `Config` decide the result.
        processes: that run it together, a GPU each.

    >>> cells("embedded")[0].place
    PosixPath('digits/preactresnet-small/erm/seed0')
    """

    grid: str
    dataset: str
    variant: str
    seed: int
    parameters: dict
    processes: int = 1

    @property
    def place(self) -> Path:
        """Its folder below the grid's."""
        return Path(self.dataset, self.parameters["model"], self.variant, f"seed{self.seed}")

    @property
    def config(self) -> Config:
        """What decides its result."""
        names = {field.name for field in dataclasses.fields(Config)}
        return Config(**{name: value for name, value in self.parameters.items() if name in names})


def read() -> dict[str, dict]:
    """All grids as the file has them, by name.

    Raises:
        FileNotFoundError: there is no `experiments.yml` here: it lies in the root of a clone.
    """
    import yaml

    path = project_root() / "experiments.yml"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; grids are read in a clone of the repository")
    return yaml.safe_load(path.read_text())


def cells(grid: str) -> list[Cell]:
    """The cells of a grid, in the order in which they are worth having: all variants of one seed before the next.

    Raises:
        ValueError: there is no such grid.
    """
    grids = read()
    if grid not in grids:
        raise ValueError(f"grid is {grid!r}; experiments.yml has {', '.join(grids)}")
    content, found = grids[grid], []
    for seed in content["seeds"]:
        for dataset, of_dataset in content["datasets"].items():
            for variant in of_dataset.get("only", content["variants"]):
                parameters = {"dataset": dataset} | content["settings"] | of_dataset | content["variants"][variant]
                beside = {name: parameters.pop(name) for name in ("only", "processes") if name in parameters}
                parameters |= {"seed": seed}
                found.append(Cell(grid, dataset, variant, seed, parameters, beside.get("processes", 1)))
    return found


def lacking(cells: list[Cell]) -> dict[str, str]:
    """The data sets that cells lack, by their names in the grid, and why; what torchvision downloads is, here and once.

    Raises:
        ValueError: data that are there and are not what they should be.
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


class Recorded(NamedTuple):
    """What is recorded of a grid.

    Args:
        found: records that are whole and are what their cell asks for.
        missing: cells without one.
        refused: a line for every file that was left out, with the reason.
    """

    found: list[Record]
    missing: list[Cell]
    refused: list[str]


def recorded(grid: str, root: Path | str = "book/results") -> Recorded:
    """The records of a grid in `root/<grid>`; one that does not fit its cell is listed and never averaged in.

    Args:
        root: below the root of the clone, where it is relative.
    """
    folder = project_root() / root / grid
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = collect(folder) if any(folder.rglob("seed*.json")) else []
    refused = [str(warning.message) for warning in caught]
    planned = {cell.place: cell for cell in cells(grid)}
    fitting = []
    for record in found:
        cell = planned.get(record.place)
        reason = "the grid has no such cell" if cell is None else _differs(record, cell)
        if reason:
            refused.append(f"{record.place} is left out: {reason}")
        else:
            fitting.append(record)
    held = {record.place for record in fitting}
    return Recorded(fitting, [cell for place, cell in planned.items() if place not in held], refused)


def _differs(record: Record, cell: Cell) -> str | None:
    held = record.config | {"processes": record.environment.get("processes", 1)}
    expected = dataclasses.asdict(cell.config) | {"processes": cell.processes}
    found = difference(held, expected | {"dataset": held["dataset"]})  # a path there, a name in the record
    return found and "{} is {!r}, the grid has {!r}".format(*found)
