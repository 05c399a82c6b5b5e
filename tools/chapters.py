"""Digests of the sources that a chapter or the site is made from."""

import hashlib
import json
from pathlib import Path


def source_digest(*paths: str) -> str:
    """Sixteen hexadecimal digits that change with any of the files, or the files below the folders.

    Of a notebook only its cells' sources and tags count, not its stored outputs.
    """
    digest = hashlib.sha256()
    for path in map(Path, paths):
        files = sorted(f for f in path.rglob("*") if f.is_file() and f.suffix != ".pyc") if path.is_dir() else [path]
        for file in files:
            digest.update(file.as_posix().encode() + _content(file))
    return digest.hexdigest()[:16]


def cells_digest(notebook: str) -> str:
    """Sixteen hexadecimal digits that change with a notebook's code cells, and not with its prose or stored outputs."""
    cells = json.loads(Path(notebook).read_text())["cells"]
    code = "\0".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _content(file: Path) -> bytes:
    if file.suffix != ".ipynb":
        return file.read_bytes()
    cells = json.loads(file.read_text())["cells"]
    return json.dumps([[cell["source"], cell["metadata"].get("tags")] for cell in cells]).encode()
