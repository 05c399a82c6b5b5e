"""One run from the command line, with what mmlib needs alone: train, evaluate, write the run folder.

python -m mmlib folder=runs/try dataset=digits method=multimix "options={'num_mixtures': 100}" seed=0

Several GPUs, m images and n mixtures on each: torchrun --nproc-per-node 4 -m mmlib device=cuda folder=...
"""

import dataclasses
import sys
from pathlib import Path

import torch

from mmlib._checks import check_type
from mmlib.experiments import runs
from mmlib.experiments.arguments import read_arguments
from mmlib.experiments.evaluation import ood
from mmlib.experiments.evaluation.suite import evaluate
from mmlib.experiments.training import distributed
from mmlib.experiments.training.config import Config, load_data

# Where, how fast and until when: what does not decide the result.
PLACES = {"folder": str, "device": str, "threads": int, "root": str, "workers": int}
RUNNING = {"compile": bool, "checkpoint_minutes": float, "checkpoint_epochs": int, "max_minutes": float}
EVALUATED = {"attacked_per_class": int, "out_sets": list}


def main(arguments: list[str]) -> None:
    """Run the cell that `name=value` arguments describe: the fields of `Config`, `PLACES`, `RUNNING`, `EVALUATED`."""
    beside = PLACES | RUNNING | EVALUATED
    values = read_arguments(arguments, {field.name for field in dataclasses.fields(Config)} | beside.keys())
    if "folder" not in values:
        raise ValueError("folder is missing; it takes the place of the run folder")
    for name, kind in beside.items():
        if name in values:
            check_type(name, values[name], kind)
    groups = (PLACES, RUNNING, EVALUATED)
    places, running, evaluated = ({name: values.pop(name) for name in of.keys() & values.keys()} for of in groups)
    places = {"device": "cpu", "threads": torch.get_num_threads(), "root": "data", "workers": 0} | places
    config, folder = Config(**values), Path(places["folder"])
    torch.set_num_threads(places["threads"])
    dataset = load_data(config, root=places["root"], workers=places["workers"])
    for name in evaluated.get("out_sets", []):  # what is not there is said before training
        ood.load_ood_images(name, dataset.test, 1, root=places["root"])
    device = distributed.start(places["device"])
    run = runs.load_or_train(config, dataset, folder, device=device, **running)
    if distributed.rank() == 0:
        metrics, predictions = evaluate(run.classifier, dataset, root=places["root"], **evaluated)
        runs.write(folder, run, metrics, predictions)
        print(f"{folder}: test accuracy {metrics['accuracy']:.2f} % after {len(run.history)} epochs")
    distributed.stop()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, FloatingPointError) as error:  # TimeoutError is an OSError
        sys.exit(f"mmlib: {error}")
