"""Say how far a grid is: what is recorded, running, stopped, failed and missing, and how long the rest will take.

python -m tools.status GRID
"""

import argparse
import sys

from mmbook import progress


def main(arguments: list[str]) -> int:
    """Print the state of a grid; return 1 where a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", help="a name in experiments.yml")
    given = parser.parse_args(arguments)
    cells, rejected, seconds = progress.grid_progress(given.grid)
    counts = {state: sum(cell.state == state for cell in cells) for state in progress.STATES}
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    print(f"{given.grid}: {len(cells)} cells: {words}")
    for state in (progress.RUNNING, progress.FAILED, progress.STOPPED):
        for cell in cells:
            if cell.state == state:
                print(f"{state:<9}{cell}")
    print(*rejected, sep="\n", end="\n" if rejected else "")
    if counts[progress.RECORDED] < len(cells):
        known = (
            f"about {progress.duration(seconds)} of training, by the seconds of recorded epochs"
            if seconds
            else "not known"
        )
        print(f"the rest: {known}; `make grid GRID={given.grid}` runs it, and failed cells again")
    return int(counts[progress.FAILED] > 0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"status: {error}")
