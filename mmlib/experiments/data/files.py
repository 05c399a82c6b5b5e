"""Arrays from .npz archives and images from folders."""

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmlib.experiments.data.names import ACCEPTED_NAMES
from mmlib.experiments.data.split import Split

if TYPE_CHECKING:
    from PIL import Image, ImageFile

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Pillow reads more, but `_has_deep_channels` knows the depth of these.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
TIFF_BITS_PER_SAMPLE = 258  # a tag

# An .npz file that is damaged or something else ends in one of these, by the place of the damage.
ARCHIVE_ERRORS = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
# So does one whose header claims an array that no memory holds.
ARCHIVE_ERRORS += (MemoryError, OverflowError)

# Where Linux says what a process may take: its control groups and their limits.
OWN_CGROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def read_arrays(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a data set's archive: all, or the class names and those whose names begin with `prefix`."""
    if not path.is_file():
        raise FileNotFoundError(f"dataset must be {ACCEPTED_NAMES}, got {str(path)!r}, which is not there")
    return load_archive(path, (prefix, "class_names"))


def load_archive(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` archive whose names begin with one of the prefixes, read into memory.

    Nothing is unpacked into a folder, and pickled objects are never loaded, for that runs what they say. Members that
    are no arrays by their names, such as a README, are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole archive of arrays.
    """
    try:
        with zipfile.ZipFile(path) as members, np.load(path, allow_pickle=False) as archive:
            wanted = [info for info in members.infolist() if info.filename.startswith(prefixes)]
            _check_memory(info.file_size for info in wanted)
            read = {info.filename: archive[info.filename] for info in wanted}
            if broken := [name for name, value in read.items() if name.endswith(".npy") and isinstance(value, bytes)]:
                raise ValueError(f"{broken[0]} is no array")
            return {name.removesuffix(".npy"): value for name, value in read.items() if not isinstance(value, bytes)}
    except FileNotFoundError:
        raise
    except ARCHIVE_ERRORS as error:
        raise ValueError(f"{path} must be an .npz archive of arrays, and cannot be read: {error}") from None


def _check_memory(sizes: Iterable[int]) -> None:
    """Refuse more bytes than the memory holds: a small file of zeros can unpack to any number of them."""
    limits = list(_memory_limits())
    if limits and (total := sum(sizes)) > min(limits):
        arrays, memory = (f"{size / 2**20:,.1f} MiB" for size in (total, min(limits)))
        raise ValueError(f"its arrays take {arrays}, and the memory is {memory}")


def _memory_limits() -> Iterator[int]:
    """Bytes of memory that this machine has, and that control groups, of a container or a batch job, leave of them."""
    with suppress(AttributeError, OSError, ValueError):  # Windows has no such count
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):  # other systems have no control groups
        for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):  # version 1 has a tree for each controller
                continue
            tree, name = (CGROUPS / "memory", "memory.limit_in_bytes") if controllers else (CGROUPS, "memory.max")
            folder = tree / group.lstrip("/")
            for place in (folder, *folder.parents):
                with suppress(OSError, ValueError):  # no such group in this container's view, or "max"
                    yield int((place / name).read_text(encoding="utf-8"))


def split_from_arrays(path: Path, arrays: dict[str, np.ndarray], name: str) -> Split:
    """The split of that name in an archive's arrays."""
    for key in (f"{name}_images", f"{name}_labels"):
        if key not in arrays:
            raise ValueError(f"{path} must have {key}, got {', '.join(arrays) or 'nothing'}")
    try:
        return make_split(arrays[f"{name}_images"], arrays[f"{name}_labels"])
    except ValueError as error:
        raise ValueError(f"{path}: {name}_{error}") from None


def class_names_from_arrays(path: Path, arrays: dict[str, np.ndarray]) -> tuple[str, ...] | None:
    """The names of classes in an archive's arrays, text or bytes, (c,) or (c, 1); None where there are none."""
    if "class_names" not in arrays:
        return None
    names = arrays["class_names"]
    if not names.ndim or names.size != len(names):
        raise ValueError(f"{path}: class_names must be of shape (c,) or (c, 1), got {names.shape}")
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.reshape(-1).tolist())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: class_names must be text, or bytes in UTF-8: {error}") from None


def list_visible(folder: Path) -> list[Path]:
    """The files and folders in a folder, in alphabetical order, without what editors and file systems hide there."""
    return sorted(item for item in folder.iterdir() if not item.name.startswith("."))


def list_classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in a folder."""
    names = tuple(item.name for item in list_visible(folder) if item.is_dir())
    if not names:
        raise FileNotFoundError(f"{folder} must have a folder for each class, got none")
    return names


def list_images(folder: Path, class_names: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """The image files of one folder of class folders, and their labels; in alphabetical order, class by class."""
    paths, labels = [], []
    for label, name in enumerate(class_names):
        found = [file for file in list_visible(folder / name) if file.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise FileNotFoundError(f"{folder / name} must have images ({', '.join(sorted(IMAGE_SUFFIXES))}), got none")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def load_rgb(file: Path) -> "Image.Image":
    """The picture in an image file, in colour and turned as its EXIF orientation says; a PIL image of any size.

    Raises:
        ValueError: it cannot be read, or has more than 8 bits a channel.
    """
    from PIL import ImageOps

    return _load(file, ImageOps.exif_transpose)


def load_stored_rgb(file: Path) -> "Image.Image":
    """As `load_rgb`, but with the pixels as they are stored, which boxes in annotations are given in."""
    return _load(file, lambda image: image)


def _load(file: Path, turn: Callable[["Image.Image"], "Image.Image"]) -> "Image.Image":
    from PIL import Image

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            if _has_deep_channels(image):
                raise ValueError(f"its pixels, of mode {image.mode}, have more than 8 bits a channel")
            return turn(image).convert("RGB")
    except Exception as error:  # a broken file raises OSError, SyntaxError, ValueError and others, by its format
        raise ValueError(f"{file} cannot be read as an image: {error}") from None


def _has_deep_channels(image: "ImageFile.ImageFile") -> bool:
    """Say whether the file has more than 8 bits a channel: Pillow gives colour of 16 bits as 8, without a word."""
    bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, ())
    layouts = [tile[3] for tile in image.tile]
    sixteen = any(";16B" in str(layout) for layout in layouts)  # of PNG
    greatest = [layout[1] for layout in layouts if image.format == "PPM" and isinstance(layout, tuple)]
    return image.mode[0] in "IF" or max(bits, default=8) > 8 or sixteen or max(greatest, default=255) > 255


def load_images(files: Sequence[Path], labels: Sequence[int]) -> Split:
    """The images of files that have one size, in colour, as a split.

    Raises:
        ValueError: a file that is no image, or has another size than the first.
    """
    with ThreadPool() as pool:
        for number, pixels in enumerate(pool.imap(lambda file: np.asarray(load_rgb(file)), files, chunksize=64)):
            if not number:
                images = np.empty((len(files), *pixels.shape), np.uint8)
            elif pixels.shape != images.shape[1:]:
                got, first = (f"{shape[1]} x {shape[0]}" for shape in (pixels.shape, images.shape[1:]))
                wanted = f"{first} pixels as {files[0]} (`size` brings images to one size)"
                raise ValueError(f"{files[number]} must have {wanted}, got {got}")
            images[number] = pixels
    return make_split(images, np.array(labels))


def make_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Arrays (n, h, w) or (n, h, w, 1 or 3) and (n,) or (n, 1), checked, as a split."""
    pixels = images if images.ndim == 4 else images[..., None]
    if images.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape[1:]:
        got = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"images must be uint8 of shape (n, h, w) or (n, h, w, 3), got {got}")
    if labels.ndim and len(labels) != len(images):
        raise ValueError(f"labels must have a row for each of {len(images)} images, got {len(labels)}")
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.size != len(labels):
        got = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"labels must be integers of shape (n,) or (n, 1), got {got}")
    if labels.size and labels.max() >= 2**63:  # as int64 it would be a negative label
        raise ValueError(f"labels must be below 2^63, got {labels.max()}")
    pixels = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return Split(pixels, torch.from_numpy(labels.astype(np.int64).reshape(-1)))
