"""Train one run, evaluate it and write its folder.

One option for each setting: text as it is, lists and dictionaries in JSON, None where a setting can be None.

  python -m mmlib.experiments --folder runs/try --dataset digits --method multimix --options '{"num_mixtures": 100}'

A run that was stopped or killed resumes by the same command. On several GPUs, with m images and n mixtures on each:

  torchrun --nproc-per-node 4 -m mmlib.experiments --device cuda --folder runs/try ...
"""

import argparse
import math
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmlib._checks import check_int, check_range
from mmlib.experiments import runs
from mmlib.experiments.arguments import OneLineParser, add_options, parse_settings
from mmlib.experiments.evaluation import check_out_sets, evaluate
from mmlib.experiments.processor import use_common_instructions
from mmlib.experiments.training import distributed
from mmlib.experiments.training.config import Config, load_data
from mmlib.experiments.training.devices import check_device, check_threads


@dataclass(frozen=True)
class RuntimeOptions:
    """Where, how fast and until when to run, and what to evaluate: settings that do not change the trained network.

    Args:
        folder: the folder of the run, which holds its checkpoints and its results.
        device: `cpu`, `cuda` or `cuda:<index>`; under torchrun `cuda` is a GPU for each process.
        threads: of the processor, at most 64 or its cores; None takes torch's default.
        root: the folder of data sets.
        workers: processes that decode the images of a streamed data set.
        compile: run the step under torch.compile.
        checkpoint_minutes: save a checkpoint after so many minutes.
        checkpoint_epochs: save a checkpoint after so many epochs, too; None saves none for that.
        max_minutes: stop at a checkpoint before so many minutes are over; None trains to the end.
        attacked_per_class: images of each class that are attacked; 0 for no attacks.
        out_sets: data sets whose images are out of distribution.
    """

    folder: str
    device: str = "cpu"
    threads: int | None = None
    root: str = "data"
    workers: int = 0
    compile: bool = False
    checkpoint_minutes: float = 5.0
    checkpoint_epochs: int | None = None
    max_minutes: float | None = None
    attacked_per_class: int = 10
    out_sets: list = field(default_factory=lambda: ["uniform", "gaussian"])

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("folder must be the path of a folder, got ''")
        check_device(self.device)
        check_threads(self.threads)
        if self.checkpoint_epochs is not None:
            check_int(1, checkpoint_epochs=self.checkpoint_epochs)
        check_int(workers=self.workers, attacked_per_class=self.attacked_per_class)
        check_range(checkpoint_minutes=self.checkpoint_minutes)
        if self.max_minutes is not None:
            check_range(-math.inf, max_minutes=self.max_minutes)  # none are left where it is negative
        if not all(isinstance(name, str) for name in self.out_sets):
            raise TypeError(f"out_sets must be a list of names, got {self.out_sets!r}")


def parse(arguments: list[str]) -> tuple[Config, RuntimeOptions]:
    """Parse a command line; one that is wrong ends the program with one line and exit code 2."""
    parser = OneLineParser(
        prog="python -m mmlib.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, RuntimeOptions)
    add_options(parser, Config)
    given = parser.parse_args(arguments)
    try:
        return parse_settings(given, Config), parse_settings(given, RuntimeOptions)
    except (TypeError, ValueError) as error:
        parser.error(str(error))


def main(arguments: list[str]) -> None:
    """Run what the arguments describe."""
    config, options = parse(arguments)
    folder = Path(options.folder)
    if config.precision != "bfloat16":  # which only wider registers compute fast
        use_common_instructions()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dataset = load_data(config, root=options.root, workers=options.workers)
    check_out_sets(options.out_sets, dataset.test, root=options.root)  # what is missing is named before the training
    device = distributed.init(options.device)
    try:
        trainer = runs.load_or_train(
            config,
            dataset,
            folder,
            device=device,
            compile=options.compile,
            checkpoint_minutes=options.checkpoint_minutes,
            checkpoint_epochs=options.checkpoint_epochs,
            max_minutes=options.max_minutes,
        )
    except TimeoutError:
        if distributed.rank() == 0:  # one process says so
            raise
        return
    finally:
        distributed.shutdown()  # the evaluation needs nobody else
    if trainer.rank == 0:
        metrics, predictions = evaluate(
            trainer.classifier,
            dataset,
            attacked_per_class=options.attacked_per_class,
            out_sets=options.out_sets,
            root=options.root,
            batch_size=config.batch_size,
        )
        runs.save_run(folder, trainer, metrics, predictions)
        print(f"{folder}: test accuracy {metrics['accuracy']:.2f} % after {len(trainer.history)} epochs")


if __name__ == "__main__":
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"  # no line of a source
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, FloatingPointError) as error:  # TimeoutError is an OSError
        print(f"mmlib: {error}", file=sys.stderr)
        sys.exit(1)
