"""Downloads that change nothing where they fail."""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError

Source = TypeVar("Source")

SILENT_SECONDS = 60.0


@contextmanager
def scratch_folder(name: str, root: Path) -> Iterator[Path]:
    """A folder in `root` for the block, removed afterwards; so is a root that the block has not put anything into.

    What is whole may be renamed into `root`, for both are on the same disk.
    """
    missing = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=root) as scratch:
            yield Path(scratch)
    finally:
        for path in missing:
            with suppress(OSError):  # it was not made, or holds something
                path.rmdir()


@contextmanager
def name_failures(name: str, root: Path, wanted: str) -> Iterator[None]:
    """Say in one line what is not in `root` and what it takes, where the block cannot download it.

    A server that sends nothing for `SILENT_SECONDS` has broken off, so that the block ends in any case.

    Raises:
        FileNotFoundError: there is no network or no place, the server breaks off, or the checksum is another.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENT_SECONDS)  # torchvision's downloads take no timeout
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = repr(error) if isinstance(error, HTTPException) else error  # a bare text says what was read, no more
        raise FileNotFoundError(f"{name} is not in root {str(root)!r}; it takes {wanted}: {reason}") from error
    finally:
        socket.setdefaulttimeout(before)


def load_torchvision(source: type[Source], name: str, root: Path, wanted: str, **split: object) -> Source:
    """One of torchvision's data sets, which is downloaded where it is not in `root`, or unpacked where its archive is.

    Args:
        source: its class.
        split: options of the class that say which split.

    Raises:
        FileNotFoundError: it is not there and cannot be downloaded; `root` is as it was.
    """
    from torchvision.datasets.utils import check_integrity, extract_archive

    with name_failures(name, root, wanted):
        with suppress(RuntimeError):  # it is not there, or not whole
            return source(root, **split)
        with scratch_folder(name, root) as scratch:
            archive = getattr(source, "filename", None)  # SVHN has none
            if archive and check_integrity(root / archive, source.tgz_md5):
                extract_archive(root / archive, scratch)
            dataset = source(scratch, **split, download=True)
            for file in filter(Path.is_file, scratch.rglob("*")):
                place = root / file.relative_to(scratch)
                place.parent.mkdir(exist_ok=True)
                file.replace(place)
    return dataset
