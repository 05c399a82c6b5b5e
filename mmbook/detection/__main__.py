"""Train and evaluate one detector, and write its record.

python -m mmbook.detection --record runs/try.json --detector ssd --start runs/pretraining/.../erm/seed0
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbook.detection.config import Config
from mmbook.detection.records import run
from mmlib._checks import check_int
from mmlib.experiments.arguments import OneLineParser, add_options, parse_settings
from mmlib.experiments.processor import use_common_instructions
from mmlib.experiments.training.devices import check_device, check_threads


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how fast to run: settings that do not decide the result.

    Args:
        record: the file to write, a .json that does not exist yet.
        root: the folder in which VOC lies.
        device: `cpu`, `cuda` or `cuda:<index>`.
        workers: processes that read images.
        threads: of the processor, at most 64 or its cores; None takes torch's default.
    """

    record: str
    root: str = "data"
    device: str = "cpu"
    workers: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        check_device(self.device)
        check_int(workers=self.workers)
        check_threads(self.threads)


def parse(arguments: list[str]) -> tuple[Config, RuntimeOptions]:
    """Parse a command line; one that is wrong ends the program with one line and exit code 2."""
    parser = OneLineParser(
        prog="python -m mmbook.detection",
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
    use_common_instructions()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    path = Path(options.record)
    content = run(config, path, root=options.root, device=options.device, workers=options.workers)
    found = content["metrics"]["map"]  # None where the test split has no objects
    print(f"{path}: test mAP {found and f'{found:.2f} %'} after {len(content['history'])} epochs")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"mmbook.detection: {error}", file=sys.stderr)
        sys.exit(1)
