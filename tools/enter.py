"""Enter runs of other machines into the ledger: run folders, or another ledger, checked one by one.

python -m tools.enter FOLDER... [--ledger book/results]

A folder holds runs at any depth, each in `<grid>/<dataset>/<model>/<variant>/seed<k>`, a run folder, or in the file
`seed<k>.json` at its place, a record. A run is refused, with a line, where it does not fit its cell of experiments.yml,
is damaged or incomplete, or differs from the record that is there. Two ledgers merge by entering one into the other.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from mmbook import grids, ledger
from mmlib.experiments import runs
from mmlib.experiments.runs import RunRecord
from mmlib.experiments.training.config import load_data

ENTERED, KNOWN, REFUSED = "entered", "there already", "refused"


def find(folder: Path) -> list[Path]:
    """List finished runs below a folder, or the one that it is: run folders, and files of a ledger.

    Raises:
        FileNotFoundError: there is none.
    """
    places = [path.parent for path in folder.rglob("metrics.json")] + list(folder.rglob("seed*.json"))
    if not places:
        raise FileNotFoundError(f"{folder} must hold finished runs, and holds none")
    return sorted(places)


def load(place: Path) -> tuple[grids.Cell, RunRecord]:
    """Load a run and find the cell that it is of.

    Raises:
        ValueError: it is damaged or incomplete, or no cell of a grid asks for it.
        OSError: one of its files is missing.
    """
    record = ledger.load_record(place) if place.suffix == ".json" else ledger.load_folder(place)
    grid = place.absolute().parts[-5]
    if grid not in grids.load_grids():
        raise ValueError(f"experiments.yml has no grid {grid}")
    found = grids.match_cells([record], own_cells(grid), grids.mismatch, [])
    if found.rejected:
        raise ValueError(found.rejected[0].removeprefix(f"{record.path} is left out: "))
    cell = next(cell for cell in own_cells(grid) if cell.path == record.path)
    here = fingerprint(cell)
    if here is not None and record.config["data"] != here:
        raise ValueError(f"data is {record.config['data']!r}, {cell.dataset} is {here!r} here")
    return cell, record


def fingerprint(cell: grids.Cell) -> str | None:
    """The fingerprint of a cell's data set; None where the data set is not here."""
    try:
        return load_data(cell.config, root=cell.parameters.get("root", "data")).fingerprint
    except (ImportError, OSError):
        return None


def own_cells(grid: str) -> list[grids.Cell]:
    """List the cells whose records lie in a grid's own folder."""
    return [cell for cell in grids.cells(grid) if cell.grid == grid]


def enter(place: Path, root: Path) -> str:
    """Enter one run into the ledger, and say whether that was needed.

    Args:
        place: a run folder, or a file of another ledger.
        root: the ledger.

    Raises:
        ValueError, OSError: the run is refused.
    """
    cell, record = load(place)
    folder = root / cell.grid
    target = folder / record.path.with_suffix(".json")
    kept = grids.load_grids()[cell.grid]
    if target.exists():
        if ledger.load_record(target).metrics != record.metrics:
            raise ValueError(f"{target} is another run of this cell; remove one of the two")
        return KNOWN
    if place.suffix == ".json":
        copy(place, target)
    else:
        ledger.add(record, folder, embeddings=kept.get("embeddings", True), weights=kept.get("weights", False))
    return ENTERED


def copy(record: Path, target: Path) -> None:
    """Copy a record with the files beside it, the record last: it makes them count."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".npz", ".pt", ".json"):
        if (file := record.with_suffix(suffix)).exists():
            runs.write_atomic(target.with_suffix(suffix), file.read_bytes())


def main(arguments: list[str]) -> int:
    """Enter what fits, print a line for everything that does not; return 1 where something was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--ledger", type=Path, default=Path("book/results"))
    given = parser.parse_args(arguments)
    counts = Counter()
    for place in (place for folder in given.folders for place in find(folder)):
        try:
            counts[enter(place, given.ledger)] += 1
        except (ValueError, OSError) as error:
            counts[REFUSED] += 1
            print(f"refused {place}: {' '.join(str(error).split())}")
    print(", ".join(f"{counts[what]} {what}" for what in (ENTERED, KNOWN, REFUSED)))
    return int(counts[REFUSED] > 0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(f"enter: {error}")
