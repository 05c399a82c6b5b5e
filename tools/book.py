"""Run the embedded grid and the chapters, build the site, and say in one line how far it is.

python -m tools.book [--cores N] [--details]

`--details` shows Snakemake's own words instead of the line.
"""

import argparse
import sys
from pathlib import Path

from mmbook import machine
from tools import jobs

SITE = Path("build/site/_build/html/index.html")


def main(arguments: list[str]) -> int:
    """Let Snakemake make the site; say where it is, or why it is the one before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", default="all", help="how many cells and chapters run at a time")
    parser.add_argument("--details", action="store_true", help="show what Snakemake says, and no line that moves")
    given = parser.parse_args(arguments)
    before = SITE.stat().st_mtime_ns if SITE.exists() else None
    with jobs.alone("site"):
        failed = jobs.run_snakemake(["site"], ["--cores", given.cores], details=given.details)
    after = SITE.stat().st_mtime_ns if SITE.exists() else None
    if failed:
        print("The site was not built" + (f"; the one before is still there: {SITE.absolute()}" if after else "."))
    else:
        print("Nothing has changed since the last build." if after == before else "The site is built.")
        print(f"The book: {SITE.absolute()}  (`make serve` shows it at an address)")
        print(machine.summary(machine.compare_embedded()[0]))
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RuntimeError as error:
        sys.exit(f"book: {error}")
