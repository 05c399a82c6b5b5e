"""Run the detectors of detection.yml that have no record yet, one after the other in one process.

python -m tools.detect [--minutes M] [--device cuda]

Each run writes its record into the ledger when it has finished; after a stop the same command continues with the next.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch

from mmbook import detection
from mmlib.experiments.arguments import non_negative
from mmlib.experiments.processor import use_common_instructions

LEDGER = Path("book/results/detection")


def precision(metrics: dict) -> str:
    """Say the mean average precision of a run, which a test split without objects does not have."""
    value = metrics["map"]
    return "no mAP, for no test image has an object" if value is None else f"mAP {value:.2f} %"


def main(arguments: list[str]) -> int:
    """Run what has no record yet; return 1 where a run failed or its start does not exist."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=non_negative, default=math.inf, help="start no run after so many")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args(arguments)
    use_common_instructions()
    torch.set_num_threads(1)
    start, failed, cells = time.time(), 0, detection.cells()
    for cell in cells:
        path = LEDGER / cell.path
        if path.exists() or time.time() - start > 60 * given.minutes:
            continue
        try:
            content = detection.run(cell.config, path, device=given.device)
        except (OSError, ValueError, FloatingPointError) as error:
            failed += 1
            print(f"{cell.path}: {error}", flush=True)
        else:
            print(f"{cell.path}: {precision(content['metrics'])}", flush=True)
    missing = sum(not (LEDGER / cell.path).exists() for cell in cells)
    print(f"detection: {missing} of {len(cells)} runs have no record in {LEDGER}")
    return int(failed > 0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(f"detect: {error}")
