"""Digests of the sources that a chapter or the site is made from."""

import hashlib
import json
import subprocess
from pathlib import Path

CACHES = (".pyc", ".nbi", ".nbc")  # of Python and numba


def source_digest(*paths: str) -> str:
    """Return sixteen hexadecimal digits that change with any of the files, or of the files below the folders.

    Only files that git tracks count, so that nothing which a run leaves beside the sources changes the digest. Of a
    notebook the sources and tags of its cells count, not its stored outputs.

    Args:
        paths: relative to the current folder, the root of the repository.
    """
    return _digest(source_files(*paths))


def source_files(*paths: str) -> list[Path]:
    """List the files among the paths and below them that git tracks.

    Where git tracks none of them (no git, or a copy outside a clone), all files but caches are listed.
    """
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--", *paths], capture_output=True, text=True, encoding="utf-8", check=True
        )
        listed = [Path(name) for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        listed = []
    if not listed:
        below = [file for path in map(Path, paths) for file in ([path] if path.is_file() else path.rglob("*"))]
        listed = [file for file in below if file.suffix not in CACHES and "__pycache__" not in file.parts]
    return sorted(file for file in listed if file.is_file())


def records_digest(folder: str) -> str:
    """Return sixteen hexadecimal digits that change with any record below a folder, tracked by git or not yet."""
    files = sorted(file for file in Path(folder).rglob("*") if file.suffix in (".json", ".npz", ".pt"))
    return _digest(files)


def cells_digest(notebook: str) -> str:
    """Return sixteen hexadecimal digits that change with a notebook's code cells, not with prose or stored outputs."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    code = "\0".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.as_posix().encode() + _content(file))
    return digest.hexdigest()[:16]


def _content(file: Path) -> bytes:
    if file.suffix != ".ipynb":
        return file.read_bytes()
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return json.dumps([[cell["source"], cell["metadata"].get("tags")] for cell in cells]).encode()
