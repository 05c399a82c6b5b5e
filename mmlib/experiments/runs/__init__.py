"""Run folders: what a finished run leaves behind, written, read and checked in one place."""

from mmlib.experiments.runs.files import checksum, load_weights, write_atomic, write_json, write_weights
from mmlib.experiments.runs.reader import RunRecord, load_run, parse_run_path
from mmlib.experiments.runs.writer import load_or_train, save_run

__all__ = [
    "RunRecord",
    "checksum",
    "load_or_train",
    "load_run",
    "load_weights",
    "parse_run_path",
    "save_run",
    "write_atomic",
    "write_json",
    "write_weights",
]
