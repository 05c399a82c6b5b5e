"""Files of a run folder, written whole."""

import hashlib
import json
from pathlib import Path


def checksum(content: dict) -> str:
    """Sixteen hexadecimal digits that change with any of the content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, content: dict) -> None:
    """One line of JSON, written whole."""
    write_atomic(path, (json.dumps(content) + "\n").encode())


def write_atomic(path: Path, content: bytes) -> None:
    """A file that is there as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
