"""Copy data to this machine's own disk, once for all cells that read them there, then run a command.

python -m tools.stage SOURCE command arguments...

NODE_STORAGE names the folder for the copies, such as `/scratch` or `$TMPDIR`, whose variables are those of the machine.
In the command's arguments `@staged` becomes the path of the copy or, where NODE_STORAGE is not set, of the source. The
first command copies, others that come meanwhile wait for it, later ones find the copy. A source whose folders have
changed is copied anew; whoever needs the room deletes old copies.
"""

import argparse
import fcntl
import getpass
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.gpus import check_command

MARK = "@staged"


def marked(parameters: dict, source: str) -> dict:
    """Return those of a cell's parameters that lie in the source, with the mark in the place of the source.

    >>> marked({"dataset": "data/imagenet", "epochs": 3}, "data/imagenet")
    {'dataset': '@staged'}
    """
    paths = {
        name: Path(place) for name, place in ({"root": "data"} | parameters).items() if name in ("root", "dataset")
    }
    return {
        name: Path(MARK, path.relative_to(source)).as_posix()
        for name, path in paths.items()
        if path.is_relative_to(source)
    }


def state(source: Path) -> str:
    """Return sixteen hexadecimal digits of where a source is and when its upper folders or files last changed."""
    watched = [source, *sorted(source.glob("*")), *sorted(source.glob("*/*"))]
    lines = [f"{path.relative_to(source)} {path.stat().st_mtime_ns}" for path in watched]
    return hashlib.sha256("\n".join([str(source.resolve()), *lines]).encode()).hexdigest()[:16]


def copy_of(source: Path, storage: Path) -> Path:
    """Return the copy of a file or folder below the storage, made where it is not there yet.

    Raises:
        FileNotFoundError: there is no such source.
        OSError: the storage has too little room, or cannot be written to.
    """
    if not source.exists():
        raise FileNotFoundError(f"stage must name a file or folder, got {str(source)!r}, which is not there")
    folder = storage / f"mmlib-data-{getpass.getuser()}"
    folder.mkdir(parents=True, exist_ok=True)
    home, partial = folder / state(source), folder / f"{state(source)}.partial"
    with (folder / f"{home.name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with this process, however it ends
        if not home.exists():
            shutil.rmtree(partial, ignore_errors=True)
            check_room(source, folder)
            partial.mkdir()
            # What a link names is copied, and times are kept.
            copying = ["cp", "-RLp", source, partial / source.name]
            done = subprocess.run(copying, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
            if done.returncode:
                shutil.rmtree(partial, ignore_errors=True)
                raise OSError(f"{source} could not be copied to {folder}: {done.stderr.splitlines()[0]}")
            partial.rename(home)
    return home / source.name


def check_room(source: Path, folder: Path) -> None:
    """Refuse a source for which a folder's disk has no room.

    Raises:
        OSError: that is so.
    """
    used = subprocess.run(["du", "-skL", source], stdout=subprocess.PIPE, check=True).stdout
    needed, free = int(used.split()[0]) * 1024, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{source} takes {needed / 2**20:,.0f} MiB, and NODE_STORAGE has {free / 2**20:,.0f}: {folder}")


def main(arguments: list[str]) -> None:
    """Copy, then become the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    check_command(given.command)
    storage = os.path.expandvars(os.environ.get("NODE_STORAGE", ""))
    place = copy_of(given.source, Path(storage)) if storage else given.source
    command = [part.replace(MARK, str(place)) for part in given.command]
    os.execvp(command[0], command)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"OSError: {error}")
