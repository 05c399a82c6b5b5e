"""Train and evaluate one detector, and write its record.

python -m mmbook.detection --record runs/try.json --detector ssd --start runs/pretraining/.../erm/seed0
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from mmbook.detection.config import Config
from mmbook.detection.records import run


def main(arguments: list[str]) -> None:
    """Run the configuration that the arguments describe; every field of `Config` is an option."""
    parser = argparse.ArgumentParser(
        prog="python -m mmbook.detection", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, required=True, help="file to write, a .json that does not exist yet")
    parser.add_argument("--root", default="data", help="folder in which VOC lies")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    for field in dataclasses.fields(Config):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=field.type, default=field.default, help=f"default: {field.default!r}")
    given = vars(parser.parse_args(arguments))
    config = Config(**{field.name: given[field.name] for field in dataclasses.fields(Config)})
    torch.set_num_threads(given["threads"])
    path = given["record"]
    content = run(config, path, root=given["root"], device=given["device"], workers=given["workers"])
    found = content["metrics"]["map"]  # None where the test split has no objects
    print(f"{path}: test mAP {found and f'{found:.2f} %'} after {len(content['history'])} epochs")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (TypeError, ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"mmbook.detection: {error}")
