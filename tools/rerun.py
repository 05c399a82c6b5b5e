"""Run a record again from itself alone, and hold the numbers of both against each other.

python -m tools.rerun book/results/<grid>/<dataset>/<model>/<variant>/seed<k>.json

The run goes into `runs/rerun/`, and where the same command was stopped it goes on. On the machine and with the
versions of the record the numbers are the same; elsewhere they differ as those of two seeds do, whose spread is shown
where the ledger has other seeds of the variant.
"""

import argparse
import sys
from pathlib import Path
from statistics import stdev

import mmlib.experiments.__main__
from mmbook import ledger
from mmlib.experiments import runs
from mmlib.experiments.runs import RunRecord
from mmlib.experiments.training.config import Config, load_data

RUNS = Path("runs/rerun")


def decided(record: RunRecord) -> dict:
    """What decided the result, the data by their name."""
    return {name: value for name, value in record.config.items() if name not in ("data", "digest")}


def arguments_of(record: RunRecord) -> list[str]:
    """What `python -m mmlib` takes to run it again, from what the record says of itself."""
    seen = {
        "threads": record.environment["threads"],
        "attacked_per_class": record.metrics["attacked_images"] // len(record.metrics["class_accuracy"]),
        "out_sets": list(record.metrics["ood"]),
        "folder": str(RUNS / record.path),
    }
    return [f"{name}={value}" for name, value in (decided(record) | seen).items()]


def compare(record: RunRecord, again: RunRecord, others: list[RunRecord]) -> list[str]:
    """A line a number: as recorded, as run again, the difference, and the spread over the variant's seeds."""
    lines = []
    for name in ledger.SCALARS:
        held, found = record.metrics[name], again.metrics[name]
        over_seeds = [other.metrics[name] for other in others]
        spread = f"{stdev(over_seeds):12.4f}" if len(over_seeds) > 1 else f"{'-':>12}"
        lines.append(f"{name:<24}{held:12.4f}{found:12.4f}{found - held:+12.4f}{spread}")
    return lines


def main(arguments: list[str]) -> None:
    """Run, then print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    path = parser.parse_args(arguments).record
    record = ledger.load_record(path)
    here = load_data(Config(**decided(record))).fingerprint
    if here != record.config["data"]:
        raise ValueError(f"data: the record's fingerprint is {record.config['data']}, here it is {here}")
    mmlib.experiments.__main__.main(arguments_of(record))
    again = runs.load_run(RUNS / record.path)
    print(f"{'':<24}{'recorded':>12}{'again':>12}{'difference':>12}{'over seeds':>12}")
    others = [ledger.load_record(file) for file in sorted(path.parent.glob("seed*.json"))]
    print("\n".join(compare(record, again, others)))
    shared = record.metrics.keys() & again.metrics.keys()  # a later version may have more
    differing = sorted(name for name in shared if record.metrics[name] != again.metrics[name])
    print(
        f"differ in some digit: {', '.join(differing)}" if differing else "all metrics are the same to the last digit"
    )
    for name in ("device", "threads", "processes", "torch", "numpy", "numba"):
        default = 1 if name == "processes" else "a version not noted"
        held, found = (of.environment.get(name, default) for of in (record, again))
        if held != found:
            print(f"{name}: recorded with {held}, here {found}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"rerun: {error}")
