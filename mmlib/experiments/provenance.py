"""The code and the machine that made a run."""

import ast
import hashlib
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mmlib.experiments.processor import instructions

PACKAGE = Path(__file__).parents[1]
# Modules that record, read or start runs without deciding their results, below the package's folder.
EXCLUDED_FROM_DIGEST = (
    "experiments/__main__.py",
    "experiments/arguments.py",
    "experiments/data/tinyimagenet.py",
    "experiments/provenance.py",
    "experiments/runs/__init__.py",
    "experiments/runs/files.py",
    "experiments/runs/reader.py",
    "experiments/runs/writer.py",
    "experiments/training/checkpoints.py",
    "experiments/training/resume.py",
)


@cache
def code_digest() -> str:
    """Return sixteen hexadecimal digits that change with what mmlib computes.

    Only modules that git tracks count, or all modules where mmlib is not in a clone. Comments, docstrings and
    formatting do not count.
    """
    excluded = {PACKAGE / name for name in EXCLUDED_FROM_DIGEST}
    files = tracked_files(PACKAGE) or list(PACKAGE.rglob("*.py"))
    modules = sorted(path for path in files if path.suffix == ".py" and path not in excluded)
    sources = [_normalized_ast(path.read_text(encoding="utf-8")) for path in modules]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def tracked_files(folder: Path) -> list[Path]:
    """List the files below a folder that git tracks; none without git, or where the folder is not of a clone."""
    listed = _git(folder, "ls-files", "-z").split("\0")
    return [folder / name for name in listed if name and (folder / name).is_file()]


def environment(device: str = "cpu") -> dict[str, str | int | bool | dict | None]:
    """Return the versions, the device, the number of threads and the commit that a run is made with.

    `commit` is None where mmlib is not in a clone, and says so where files differ from the commit. What the device
    does not have is None.
    """
    on_gpu = torch.device(device).type == "cuda"
    instruction_set = torch.backends.cpu.get_cpu_capability()  # the family of kernels, which decides how sums round
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "numba": _version("numba"),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{platform.machine()} {instruction_set}",
        "device_type": "cuda" if on_gpu else "cpu",
        "instruction_set": instruction_set,
        "instructions": instructions(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "driver": _driver() if on_gpu else None,
        "tf32": torch.backends.cudnn.allow_tf32 if on_gpu else None,
        "commit": _commit(),
    }


def _normalized_ast(source: str) -> str:
    """Return the syntax tree without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def _commit() -> str | None:
    """Return the commit of the clone that mmlib is in; a repository that merely surrounds an installation has none."""
    if not tracked_files(PACKAGE):
        return None
    return _git(PACKAGE, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty= with changes").strip() or None


def _git(folder: Path, *arguments: str) -> str:
    with suppress(FileNotFoundError):
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8").stdout
    return ""


def _driver() -> str | None:
    with suppress(FileNotFoundError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        lines = subprocess.run(command, capture_output=True, text=True, encoding="utf-8").stdout.splitlines()
        return lines[0].strip() if lines else None
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
