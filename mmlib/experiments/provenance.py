"""Which code and which machine made a run."""

import ast
import hashlib
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGE = Path(__file__).parents[1]
# What only looks at runs does not decide them.
ONLY_LOOKING = {
    "__main__.py",
    "checkpoints.py",
    "files.py",
    "provenance.py",
    "reader.py",
    "tinyimagenet.py",
    "writer.py",
}


@cache
def code_digest() -> str:
    """Sixteen hexadecimal digits that change with what mmlib does.

    Comments, docstrings and formatting do not count.
    """
    modules = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ONLY_LOOKING)
    return hashlib.sha256("\0".join(_meaning(path.read_text()) for path in modules).encode()).hexdigest()[:16]


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0].value = ast.Constant(None)
    return ast.dump(tree)


def environment(device: str = "cpu") -> dict[str, str | int | None]:
    """Versions, device, threads and commit, with a word where files differ from it; None without git or a clone."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty= with changes"]
    commit = ""
    with suppress(FileNotFoundError):
        commit = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True).stdout
    # What decides how sums are rounded: the family of processors, and the instructions that torch uses on it.
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    device = torch.cuda.get_device_name() if device.startswith("cuda") else processor
    versions = {"python": platform.python_version(), "torch": torch.__version__}  # with what it was built for
    versions |= {name: version(name) for name in ("numpy", "numba")}
    return versions | {"device": device, "threads": torch.get_num_threads(), "commit": commit.strip() or None}
