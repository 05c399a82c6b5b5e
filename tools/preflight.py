"""Say in one line, before the environment is made, what this machine lacks for it.

python3 tools/preflight.py

It runs with the Python that is there, of whatever version, and with nothing installed.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHON = (3, 11)
GIGABYTES = 10  # the environment takes 6.4, most of it CUDA's; pip keeps what it downloads beside it until the end


def lacking(version, gigabytes, modules, index_answers):
    """Return what is missing as one line, or an empty one; `index_answers` is asked last, for it takes seconds.

    >>> lacking((3, 9), 100, [], lambda: True)
    'Python 3.11 or later is needed, and this is 3.9; `make PYTHON=python3.12 book` takes another'
    >>> lacking((3, 12), 2.5, [], lambda: True)
    'the environment needs 10 GB of disk here, and 2.5 GB are free'
    """
    if version < PYTHON:
        needed, found = (".".join(map(str, numbers)) for numbers in (PYTHON, version))
        return f"Python {needed} or later is needed, and this is {found}; `make PYTHON=python3.12 book` takes another"
    if modules:
        return f"this Python has no {' and no '.join(modules)}; on Debian `apt install python3-venv` brings them"
    if gigabytes < GIGABYTES:
        return f"the environment needs {GIGABYTES} GB of disk here, and {gigabytes:.1f} GB are free"
    if not index_answers():
        return "pip gets nothing that requirements.lock pins; `pip config list` shows which package index it asks"
    return ""


def index_answers():
    """Ask pip for one small package of the lock file, as the installation will, and keep nothing."""
    if not importlib.util.find_spec("pip"):
        return True  # as on Debian, where only the environment has it
    with tempfile.TemporaryDirectory() as folder:
        where = ["--dest", folder, "--no-cache-dir", "--retries", "0", "--timeout", "20"]
        what = ["--no-deps", "--constraint", "requirements.lock", "six"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *where, *what]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def main():
    """Print what is missing, if anything is, and return 1 then."""
    # An environment that is there already is only brought up to date.
    free = GIGABYTES if Path(".venv").exists() else shutil.disk_usage(".").free / 1e9
    modules = [name for name in ("venv", "ensurepip") if not importlib.util.find_spec(name)]
    message = lacking(sys.version_info[:2], free, modules, index_answers)
    if message:
        print(f"make: {message}", file=sys.stderr)
    return int(bool(message))


if __name__ == "__main__":
    sys.exit(main())
