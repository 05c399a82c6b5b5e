"""The files of a run folder: their names, and how they are written as a whole."""

import hashlib
import io
import json
import math
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from mmlib.experiments.training.checkpoints import CLASSIFIER_PREFIX, classifier_weights, first_line

CONFIG = "config.json"
HISTORY = "history.csv"
ENVIRONMENT = "environment.json"
EMBEDDINGS = "embeddings.npz"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.json"  # written last: a folder with it holds a finished run


def checksum(content: dict) -> str:
    """Return sixteen hexadecimal digits that change with any part of the content.

    >>> checksum({"lr": 0.1}) == checksum({"lr": 0.2})
    False
    """
    return hashlib.sha256(_dump(content, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, content: dict) -> None:
    """Write one line of JSON as a whole; numbers that are not finite, which JSON lacks, become null."""
    write_atomic(path, (_dump(content) + "\n").encode())


def read_json(path: Path) -> dict:
    """Read a file that `write_json` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except (ValueError, RecursionError) as error:  # the latter of brackets within brackets
        raise ValueError(f"{path} must hold a JSON object, and cannot be read: {error}") from None
    return content


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all.

    Args:
        path: of the file, which is replaced if it is there.
        content: all its bytes.

    Raises:
        OSError: it could not be written; what was there before is left as it was, and nothing half-written beside it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):  # where nothing can be written, nothing may be removable either
            partial.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written: {error.strerror}") from error


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write the parameters and buffers of a network alone; `load_weights` reads them as it does a checkpoint."""
    buffer = io.BytesIO()
    torch.save({"method": {CLASSIFIER_PREFIX + name: value for name, value in weights.items()}}, buffer)
    write_atomic(path, buffer.getvalue())


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Load the parameters and buffers of the network from a checkpoint or from a file of `write_weights`.

    Code in the file is never run: whatever is no tensor, number, text or container of them is refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no weights.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return classifier_weights(state if "method" in state else {"method": state["objective"]})  # its earlier name
    except FileNotFoundError:
        raise
    except Exception as error:  # of any kind, by the place of the damage
        raise ValueError(f"{path} must hold the weights of a network: {first_line(error)}") from None


def _dump(content: dict, *, sort_keys: bool = False) -> str:
    try:
        return json.dumps(content, sort_keys=sort_keys, allow_nan=False)
    except ValueError:  # a number that is not finite; looking for one takes longer than all the rest
        return json.dumps(_finite(content), sort_keys=sort_keys, allow_nan=False)


def _finite(value: object) -> object:
    """Replace numbers that are not finite by None, also inside lists and dictionaries."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
