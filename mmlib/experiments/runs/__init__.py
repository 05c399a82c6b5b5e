"""Run folders: what a finished run leaves behind, written, read and checked in one place."""

from mmlib.experiments.runs.files import checksum, write_atomic, write_json
from mmlib.experiments.runs.reader import CLASSIFIER, Record, place_of, read, weights
from mmlib.experiments.runs.writer import load_or_train, write

__all__ = [
    "CLASSIFIER",
    "Record",
    "checksum",
    "load_or_train",
    "place_of",
    "read",
    "weights",
    "write",
    "write_atomic",
    "write_json",
]
