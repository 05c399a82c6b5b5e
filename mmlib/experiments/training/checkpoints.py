"""The checkpoints of a run: written whole and beside the training, the last two kept."""

import os
import pickle
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two runs apart there
    fcntl = None

# What torch.load raises of a file that is cut short or no checkpoint at all, and `fits` of one that holds no state.
BROKEN = (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError, pickle.UnpicklingError)


class Checkpoints:
    """`checkpoint.pt` and, one before it, `checkpoint-before.pt` in a run's folder.

    A file is written under another name first and then renamed, so a run that is killed meanwhile leaves the two
    before it. Writing takes place in a thread of its own: training waits for the copy of its state alone. As a
    context it keeps other processes out of the folder, until it ends or its process does.

    Args:
        folder: made where it is not there; None keeps no checkpoints.

    Raises:
        OSError: entering it, another process trains in the folder; leaving it, a checkpoint could not be written.

    >>> import tempfile
    >>> with Checkpoints(Path(tempfile.mkdtemp())) as checkpoints:
    ...     checkpoints.save({"epoch": 1})
    ...     checkpoints.load()
    {'epoch': 1}
    """

    def __init__(self, folder: Path | None) -> None:
        self.paths = [folder / name for name in ("checkpoint.pt", "checkpoint-before.pt")] if folder else []
        self.lock: int | None = None
        self.writer, self.pending = ThreadPoolExecutor(1), Future()
        self.pending.set_result(None)

    def __enter__(self) -> "Checkpoints":
        if self.paths:
            folder = self.paths[0].parent
            folder.mkdir(parents=True, exist_ok=True)
            if fcntl:  # a lock on the folder itself leaves nothing behind, not even after a kill
                self.lock = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(self.lock)
                    raise OSError(f"folder {folder} is trained in by another process; it takes one at a time") from None
        return self

    def __exit__(self, *raised) -> None:
        try:
            self.wait()
        finally:
            if self.lock is not None:
                os.close(self.lock)

    def save(self, state: dict) -> None:
        """Write a copy of the state as it is now.

        Raises:
            OSError: the checkpoint before this one could not be written.
        """
        self.wait()
        if self.paths:
            self.pending = self.writer.submit(self._write, _copy(state))

    def wait(self) -> None:
        """Until the last checkpoint is written.

        Raises:
            OSError: it could not be.
        """
        self.pending.result()

    def load(self, fits=lambda state: None) -> dict | None:
        """The last checkpoint that is whole and fits; None if there is none. What is passed over is warned of.

        Args:
            fits: says in words why a run cannot go on from a state, or None where it can.
        """
        self.wait()
        for path in self.paths:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                reason = fits(state)
            except FileNotFoundError:
                continue
            except BROKEN as error:
                reason = f"is not whole ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            if reason is None:
                return state
            warnings.warn(f"{path} {reason}: passed over", stacklevel=2)
        return None

    def _write(self, state: dict) -> None:
        last, before = self.paths
        last.parent.mkdir(parents=True, exist_ok=True)
        partial = last.with_name("checkpoint.pt.partial")
        try:
            torch.save(state, partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as either
            partial.unlink(missing_ok=True)
            raise OSError(f"{last} could not be written: {str(error).splitlines()[0]}") from error
        if last.exists():
            last.replace(before)
        partial.replace(last)


def _copy(value: object) -> object:
    """The state on the CPU, apart from the tensors that training goes on to change."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return type(value)(_copy(item) for item in value) if isinstance(value, list | tuple) else value
