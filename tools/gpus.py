"""Run a command on GPUs that no other command started in this way occupies.

python -m tools.gpus COUNT command arguments...

The command sees only these GPUs. It holds a lock on each until it ends, however it ends; where too few are free it
waits. The locks are the machine's, so that two clones share no GPU either. With a count of 0, where there is no GPU, or
in a job of Slurm, which hands out GPUs itself, the command runs at once and sees what there is.
"""

import argparse
import fcntl
import getpass
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

LOCKS = Path(tempfile.gettempdir(), f"mmlib-gpus-{getpass.getuser()}")


def check_command(command: list[str]) -> None:
    """Check that a command can be started, before anybody waits for it.

    Args:
        command: a program, by its name or path, and its arguments.

    Raises:
        FileNotFoundError: it is empty, or this machine has no such program.

    >>> check_command([])
    Traceback (most recent call last):
    FileNotFoundError: command must be a program of this machine, got ''
    """
    if not command or not shutil.which(command[0]):
        raise FileNotFoundError(f"command must be a program of this machine, got {' '.join(command)!r}")


def visible() -> list[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    if (names := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in names.split(",") if name]
    import torch

    return [str(k) for k in range(torch.cuda.device_count())]


def occupy(names: list[str], count: int) -> list[str]:
    """Lock as many of the GPUs as asked for, and return their names; None are locked where too few are free.

    The locks belong to files that stay open, in this process and in the command that replaces it.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    held = {}
    for name in names:
        if len(held) == count:
            break
        file = os.open(LOCKS / f"gpu{name}", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            os.set_inheritable(file, True)
            held[name] = file
    if len(held) < count:
        for file in held.values():
            os.close(file)
        return []
    return list(held)


def main(arguments: list[str]) -> None:
    """Wait for the GPUs, then become the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    check_command(given.command)
    names = visible() if given.count and "SLURM_JOB_ID" not in os.environ else []
    count = min(given.count, len(names))  # a command that needs more says so itself
    while count and not (occupied := occupy(names, count)):
        time.sleep(1)
    if count:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(occupied)
    os.execvp(given.command[0], given.command)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"OSError: {error}")
