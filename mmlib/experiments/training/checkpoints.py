"""The checkpoints of a run: written whole and beside the training, the last two kept.

The content of a checkpoint is made in `trainer.py`, by `Trainer.state`.
"""

import io
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two runs apart there
    fcntl = None

SET_ASIDE = "checkpoint-of-another-run.pt"
CLASSIFIER_PREFIX = "classifier."  # of the network's parameters and buffers in a method's state


class Checkpoints:
    """The files `checkpoint.pt` and, from the time before, `checkpoint-previous.pt` in the folder of a run.

    A file is written under another name first and then renamed, so a run that is killed meanwhile leaves the two
    earlier files. A thread writes; training waits only while its state is copied. As a context manager it keeps other
    processes out of the folder, until the context or the process ends.

    A whole file that the run cannot use, of other code or another configuration, is never replaced: the first `save`
    moves the last such file to `checkpoint-of-another-run.pt`. Only one is kept, and what is there is not replaced
    either.

    Args:
        folder: made where it is missing; None keeps no checkpoints.

    Raises:
        OSError: on entering, another process trains in the folder; on leaving, a checkpoint could not be written.

    >>> import tempfile
    >>> with Checkpoints(Path(tempfile.mkdtemp())) as checkpoints:
    ...     checkpoints.save({"epoch": 1})
    ...     checkpoints.load()
    {'epoch': 1}
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.paths = [Path(folder) / name for name in ("checkpoint.pt", "checkpoint-previous.pt")] if folder else []
        self.foreign: Path | None = None  # the last whole file of another run, to be moved aside
        self.lock: int | None = None
        self.writer, self.pending = ThreadPoolExecutor(1), Future()
        self.pending.set_result(None)

    def __enter__(self) -> "Checkpoints":
        if self.paths:
            folder = self.paths[0].parent
            folder.mkdir(parents=True, exist_ok=True)
            if fcntl:  # a lock on the folder itself leaves nothing behind, not even after a kill
                self.lock = os.open(folder, os.O_RDONLY)
                if not _try_lock(self.lock, fcntl.LOCK_EX):
                    os.close(self.lock)
                    raise OSError(f"folder {folder} is in use: another process trains there")
        return self

    def __exit__(self, *raised) -> None:
        try:
            self.wait()
        finally:
            if self.lock is not None:
                os.close(self.lock)

    def save(self, state: dict) -> None:
        """Copy the state now, and write the copy in the background.

        Raises:
            OSError: the previous checkpoint could not be written.
        """
        self.wait()
        if self.paths:
            self.pending = self.writer.submit(self._write, _copy(state))

    def wait(self) -> None:
        """Block until pending writes finish.

        Raises:
            OSError: the last checkpoint could not be written.
        """
        self.pending.result()

    def load(self, validate: Callable[[dict], str | None] = lambda state: None) -> dict | None:
        """Load the last checkpoint that is whole and valid; others are skipped with a warning.

        Args:
            validate: returns the reason why a run cannot use a state, or None where it can.

        Returns:
            The state, or None if there is no such checkpoint.

        Raises:
            FileExistsError: a whole file is of another run, and the one of yet another run is kept already.
            OSError: a file is there and cannot be read, whole or not.
        """
        self.wait()
        self.foreign = None
        for path in self.paths:
            try:
                state = _read(path)
            except FileNotFoundError:
                continue
            except ValueError as error:
                warnings.warn(f"{path} is not whole ({error}): skipped", stacklevel=2)
                continue
            reason = validate(state) if isinstance(state, dict) else "is not a checkpoint of a run"
            if reason is None:
                return state
            if self.foreign is None:
                self._set_aside_later(path, reason)
        return None

    def _set_aside_later(self, path: Path, reason: str) -> None:
        """Not now: other processes may still read the file, and a run may end before it has anything to keep."""
        if (kept := path.with_name(SET_ASIDE)).exists():
            # What to do comes first: a summary of many cells cuts a long line.
            wanted = f"{kept} must be moved away or removed for the run to start anew"
            raise FileExistsError(f"{wanted}: {path.name} {reason}, and would take its place")
        warnings.warn(f"{path} {reason}: skipped, and moved to {SET_ASIDE} by the next checkpoint", stacklevel=3)
        self.foreign = path

    def _write(self, state: dict) -> None:
        last, previous = self.paths
        last.parent.mkdir(parents=True, exist_ok=True)
        partial = last.with_name("checkpoint.pt.partial")
        try:
            torch.save(state, partial)
            if self.foreign:
                self.foreign.replace(last.with_name(SET_ASIDE))
                self.foreign = None
            if last.exists():
                last.replace(previous)
            partial.replace(last)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as either
            partial.unlink(missing_ok=True)
            raise OSError(f"{last} could not be written: {first_line(error)}") from error


def _read(path: Path) -> object:
    """Read a file of `torch.save`.

    Raises:
        OSError: the file cannot be read; what is in it may be whole.
        ValueError: it can, and is damaged.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind, by the place of the damage
        raise ValueError(first_line(error)) from None


def is_locked(folder: Path) -> bool:
    """Say whether a process trains in a folder now; never on Windows, where nothing keeps two runs apart.

    >>> is_locked(Path("no such folder"))
    False
    """
    if fcntl is None or not folder.exists():
        return False
    handle = os.open(folder, os.O_RDONLY)
    try:
        return not _try_lock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _try_lock(handle: int, kind: int) -> bool:
    """Take a lock on an open folder unless another process holds one for longer than a moment, as `is_locked` does."""
    for pause in (0.05, 0.0):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        else:
            return True
    return False


def _copy(value: object) -> object:
    """Copy a state to the CPU, so that later steps do not change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return type(value)(_copy(item) for item in value) if isinstance(value, list | tuple) else value


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's name where it has none."""
    return str(error).split("\n", 1)[0] or type(error).__name__


def classifier_weights(state: dict) -> dict[str, Tensor]:
    """Return the network's parameters and buffers from the state of a checkpoint."""
    return {
        name.removeprefix(CLASSIFIER_PREFIX): value
        for name, value in state["method"].items()
        if name.startswith(CLASSIFIER_PREFIX)
    }
