"""Run folders: what a finished run leaves behind, written, read and checked in one place.

A run folder holds `config.json`, `history.csv`, `checkpoint.pt`, `environment.json`, `embeddings.npz` and
`metrics.json`. The last is written last: a folder without it is not a finished run, and nothing reads it. Each file is
written under a temporary name and then renamed. The folder may have any name; that of a cell is
`<grid>/<dataset>/<model>/<variant>/seed<k>/`.
"""

from mmlib.experiments.runs.files import checksum, load_weights, read_json, write_atomic, write_json, write_weights
from mmlib.experiments.runs.reader import Run, RunRecord, load_run, parse_run_path, run_path
from mmlib.experiments.runs.writer import load_or_train, save_run

__all__ = [
    "Run",
    "RunRecord",
    "checksum",
    "load_or_train",
    "load_run",
    "load_weights",
    "parse_run_path",
    "read_json",
    "run_path",
    "save_run",
    "write_atomic",
    "write_json",
    "write_weights",
]
