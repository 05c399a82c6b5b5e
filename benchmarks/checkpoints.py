"""The cost of checkpoints and of resuming: `python benchmarks/checkpoints.py` prints it and writes it to build/bench.

A step waits while the state is copied; a thread writes the file beside the steps that follow. Resuming is starting
Python anew, reading the file and restoring everything from it; reading the data set comes on top. Fractions are of a
run that saves every five minutes, as by default, and of one that takes eight minutes and is stopped once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from training import noise, synchronise

from mmlib.experiments.provenance import environment
from mmlib.experiments.training.checkpoints import Checkpoints
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.trainer import Trainer, train_epoch

BETWEEN, WHOLE = 5 * 60, 8 * 60  # seconds between two checkpoints, and of a run


def seconds(call: Callable[[], object], device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def start() -> None:
    """A fresh Python with everything imported that a run needs."""
    subprocess.run([sys.executable, "-c", "import mmlib.experiments.__main__"], check=True)


def costs(model: str, device: str, repeats: int, start_seconds: float) -> dict[str, float]:
    """Medians for a distilled run, whose state is the largest: weights, teacher and momentum."""
    run = Trainer(Config(model=model, method="multimix_distill"), noise(128), device)
    train_epoch(run, 0)
    folder = Path(tempfile.mkdtemp())
    with Checkpoints(folder) as checkpoints:
        saves, writes, loads = [], [], []
        for _ in range(repeats):
            saves.append(seconds(lambda: checkpoints.save(run.state()), device))
            writes.append(saves[-1] + seconds(checkpoints.wait, device))
            loads.append(seconds(lambda: run.restore(checkpoints.load()), device))
        size = checkpoints.paths[0].stat().st_size
    return {
        "mib": size / 2**20,
        "step_ms": 1e3 * median(seconds(lambda: train_epoch(run, 0), device) for _ in range(repeats)),
        "stall_ms": 1e3 * median(saves),
        "written_after_ms": 1e3 * median(writes),
        "restore_ms": 1e3 * median(loads),
        "share_of_saving": median(saves) / BETWEEN,
        "share_of_going_on": (start_seconds + median(loads)) / WHOLE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of checkpoints.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start_seconds = median(seconds(start, arguments.device) for _ in range(5))
    print(f"a fresh Python starts in {start_seconds:.1f} s")
    figures = {"environment": environment(arguments.device), "start_seconds": start_seconds}
    for model in ("preactresnet-small", "preactresnet18"):
        row = figures[model] = costs(model, arguments.device, arguments.repeats, start_seconds)
        print(
            f"{model:<20}{row['mib']:7.1f} MiB   a step {row['step_ms']:.0f} ms, stalled {row['stall_ms']:.1f} ms, "
            f"on disk after {row['written_after_ms']:.0f} ms, restored in {row['restore_ms']:.0f} ms: "
            f"{row['share_of_saving']:.3%} of a run for saving, {row['share_of_going_on']:.3%} for resuming"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"checkpoints-{arguments.device}-{arguments.threads}.json"
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
