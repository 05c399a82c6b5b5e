"""Run a record again from itself alone, and compare the numbers of both.

python -m tools.rerun book/results/<grid>/<dataset>/<model>/<variant>/seed<k>.json

The run goes into `runs/rerun/`; the same command resumes it. It uses the kind of device, the number of processes,
threads and workers, and the compiler as the record says. With the code, versions and instructions of the record the
numbers are the same. Otherwise sums are rounded in another order, and the last lines say whether the run lies within
the band that was measured for such twins (`mmbook.machine`). The spread over seeds is shown where the ledger has other
seeds of the variant.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import stdev

import mmlib.experiments.__main__
from mmbook import ledger, machine
from mmlib.experiments import runs
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.data import Split
from mmlib.experiments.runs import Run, RunRecord
from mmlib.experiments.training.config import Config, load_data
from mmlib.experiments.training.devices import check_device

RUNS = Path("runs/rerun")
RESULTS = Path(__file__).parents[1] / "book" / "results"
NOTED = (
    "commit",
    "device",
    "instruction_set",
    "instructions",
    "threads",
    "processes",
    "torch",
    "numpy",
    "numba",
    "cuda",
    "cudnn",
)


def recorded_config(record: RunRecord) -> dict:
    """Return the fields of `Config` that determined the result; the data set is its name."""
    return {name: value for name, value in record.config.items() if name not in ("data", "digest")}


def attacked_per_class(test: Split, attacked_images: int) -> int:
    """Return how many images of each class, or all where it has fewer, are so many of the test set together.

    Raises:
        ValueError: no number of images of each class is.
    """
    sizes = test.labels.bincount()
    for count in range(int(sizes.max()) + 1):
        if (together := int(sizes.clamp(max=count).sum())) >= attacked_images:
            break
    if together != attacked_images:
        raise ValueError(f"attacked_images must be some of each of {len(sizes)} classes, got {attacked_images}")
    return count


def command_arguments(record: RunRecord, dataset: str, root: str, device: str | None, attacked: int) -> list[str]:
    """Return what `python -m mmlib.experiments` takes to run a record again.

    Args:
        dataset: the path of a data set that has none of the known names; else its name.
        root: the folder of data sets, which a record does not know.
        device: its kind, if it is not to be the record's, or the record does not say it.
        attacked: images of each class that are attacked.

    Raises:
        ValueError: nothing says the kind of device, or that kind is not here.
    """
    device = device or record.environment.get("device_type")
    if device is None:
        raise ValueError("--device must be given, for the record does not say its kind of device")
    check_device(device)
    options = {
        "dataset": dataset,
        "folder": str(RUNS / record.path),
        "root": root,
        "device": device,
        "threads": record.environment["threads"],
        "workers": record.environment.get("workers", 0),
        "compile": record.environment.get("compile", False),
        "attacked_per_class": attacked,
        "out_sets": list(record.metrics["ood"]),
    }
    return to_arguments(recorded_config(record) | options)


def run(arguments: list[str], processes: int) -> None:
    """Run in this process, or in as many as the record says, by torchrun.

    Raises:
        subprocess.CalledProcessError: the processes failed.
    """
    if processes == 1:
        mmlib.experiments.__main__.main(arguments)
        return
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run([*torchrun, "-m", "mmlib.experiments", *arguments], check=True)


def compare(record: RunRecord, again: Run, others: list[RunRecord]) -> list[str]:
    """Return a line for each number: as recorded, as run again, the difference, and the spread over seeds."""
    lines = []
    for name in ledger.SCALARS:
        stored, found = record.metrics[name], again.metrics[name]
        over_seeds = [other.metrics[name] for other in others if other.metrics[name] is not None]
        spread = stdev(over_seeds) if len(over_seeds) > 1 else None
        difference = None if None in (stored, found) else found - stored
        signed = f"{'-':>12}" if difference is None else f"{difference:+12.4f}"
        lines.append(f"{name:<24}{_column(stored)}{_column(found)}{signed}{_column(spread)}")
    return lines


def conclude(record: RunRecord, again: Run, results: Path = RESULTS) -> list[str]:
    """Return whether the run is identical to its record or within the band, and what it was made with otherwise.

    Args:
        results: the folder with the ledger's grids, whose twins measure the band.
    """
    shared = record.metrics.keys() & again.metrics.keys()  # a later version may have more
    differing = sorted(name for name in shared if record.metrics[name] != again.metrics[name])
    twins = results / "other-instructions"
    if not differing:
        lines = [f"{machine.IDENTICAL}: all metrics are the same to the last digit"]
    elif machine.has_band(record, twins):
        band, pairs = machine.measure_band(results / "digits", twins)
        widths = ", ".join(f"{name} ± {band[name]:.{digits}f}" for name, digits in machine.METRICS.items())
        lines = [f"{machine.outcome(record.metrics, again.metrics, band)}: {widths}, from {pairs} pairs"]
    else:
        lines = ["no band is measured for runs of this data set, network and length"]
    if differing:
        lines.append(f"differ in some digit: {', '.join(differing)}")
    for name in NOTED:
        stored, found = record.environment.get(name), again.environment.get(name)
        if stored != found:
            lines.append(f"{name}: recorded with {'nothing noted' if stored is None else stored}, here {found}")
    return lines


def _column(value: float | None) -> str:
    return f"{'-':>12}" if value is None else f"{value:12.4f}"


def main(arguments: list[str]) -> None:
    """Run, then print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--root", default="data", help="the folder of data sets (default: data)")
    parser.add_argument("--dataset", help="the path of a data set of your own, which a record knows by its name alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="its kind, if not as recorded")
    given = parser.parse_args(arguments)
    record = ledger.load_record(given.record)
    dataset = given.dataset or record.config["dataset"]
    here = load_data(Config(**recorded_config(record) | {"dataset": dataset}), root=given.root)
    if here.fingerprint != record.config["data"]:
        raise ValueError(f"data must have the record's fingerprint {record.config['data']}, got {here.fingerprint}")
    attacked = attacked_per_class(here.test, record.metrics["attacked_images"])
    command = command_arguments(record, dataset, given.root, given.device, attacked)
    run(command, record.environment.get("processes", 1))
    again = runs.load_run(RUNS / record.path)
    print(f"{'':<24}{'recorded':>12}{'again':>12}{'difference':>12}{'over seeds':>12}")
    others = [ledger.load_record(file) for file in sorted(given.record.parent.glob("seed*.json"))]
    print("\n".join(compare(record, again, others)))
    print("\n".join(conclude(record, again)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"rerun: {error}")
