"""Run the command of a cell so that nothing of it outlives its time or whoever started it.

python -m tools.cell MINUTES command arguments...

A kernel is no child of the shell that started papermill, and a killed Snakemake leaves both running and writing. This
process watches over them: once its own parent has ended, the minutes are over or a signal asks it to end, it ends every
process below it. The last line of the cell's log then says why; its checkpoint stays.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from tools.gpus import check_command

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL_SECONDS = 0.5


def end_all() -> None:
    """Kill every process below this one, and those that they have started meanwhile."""
    while below := psutil.Process().children(recursive=True):
        for process in below:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(below, timeout=5)


def run(command: list[str], why_end: Callable[[], str | None]) -> int:
    """Run a command until it ends, or until there is a reason to end it; return its exit code.

    Args:
        why_end: asked every half second.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: 0
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent stays below this process

    def die_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    child = subprocess.Popen(command, preexec_fn=die_with_parent)
    try:
        while True:
            try:
                code = child.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if reason := why_end():
                    print(reason, flush=True)
                    return 1
            else:
                if code < 0:  # a cluster sends its signal to every process of a job
                    ended = f"ChildProcessError: {command[0]} was ended by {signal.Signals(-code).name}"
                    print(why_end() or ended, flush=True)
                return abs(code)
    finally:
        end_all()


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    check_command(given.command)
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: received.append(number))
    parent, deadline = os.getppid(), time.monotonic() + 60 * given.minutes

    def why_end() -> str | None:
        if received:
            return f"Interrupted: by {signal.Signals(received[0]).name}, as of a cluster that takes its node back"
        if os.getppid() != parent:
            return "Interrupted: what started the cell has ended"
        if time.monotonic() > deadline:
            return f"TimeoutError: the cell ran longer than {given.minutes:g} minutes, which its resources allow"
        return None

    return run(given.command, why_end)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except OSError as error:
        sys.exit(f"OSError: {error}")
