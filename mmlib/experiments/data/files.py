"""Data sets from files: .npz archives and folders of images."""

import zipfile
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch

from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.names import TAKES
from mmlib.experiments.data.split import Split

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def _npz(path: Path) -> Dataset:
    arrays = _arrays(path)
    parts = [part for part in ("train", "val", "test") if part != "val" or f"{part}_images" in arrays]
    splits = {part: _part(path, arrays, part) for part in parts}
    classes = 1 + max((int(split.labels.max()) for split in splits.values() if len(split)), default=0)
    names = tuple(str(name) for name in arrays.get("class_names", range(classes)))
    return _from_path(path.stem, splits, names)


def _arrays(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """What an archive holds: all of it, or the class names and what begins with `prefix`."""
    if not path.is_file():
        raise FileNotFoundError(f"dataset is {str(path)!r}, which is not there; it takes {TAKES}")
    try:
        with zipfile.ZipFile(path), np.load(path) as archive:
            return {key: archive[key] for key in archive.files if key.startswith((prefix, "class_names"))}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz archive of arrays: {error}") from None


def _part(path: Path, arrays: dict[str, np.ndarray], part: str) -> Split:
    for key in (f"{part}_images", f"{part}_labels"):
        if key not in arrays:
            raise ValueError(f"{path} has no {key}; it holds {', '.join(arrays) or 'nothing'}")
    try:
        return _split(arrays[f"{part}_images"], arrays[f"{part}_labels"])
    except ValueError as error:
        raise ValueError(f"{path}: {part}_{error}") from None


def _folder(path: Path, size: int | None, workers: int) -> Dataset:
    names, files = (), {}
    for part in ("train", "val", "test") if (path / "val").is_dir() else ("train", "test"):
        if not (path / part).is_dir():
            raise FileNotFoundError(f"{path} has no folder {part!r}; it takes train/<class> and test/<class>")
        found = _class_names(path / part)
        names = names or found
        if found != names:
            differ = ", ".join(sorted(set(found) ^ set(names)))
            raise ValueError(f"{path / part} and {path / 'train'} differ in their classes: {differ}")
        files[part] = _files(path / part, names)
    if size is not None:
        from mmlib.experiments.data.streaming import build_streamed_dataset

        return build_streamed_dataset(path, files, names, size, workers)
    return _from_path(path.resolve().name, {part: load_images(*of_part) for part, of_part in files.items()}, names)


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, in alphabetical order, without what editors and file systems hide there."""
    return sorted(item for item in folder.iterdir() if not item.name.startswith("."))


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(item.name for item in _listed(folder) if item.is_dir())
    if not names:
        raise FileNotFoundError(f"{folder} has no class folders")
    return names


def _files(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """The image files of one folder of class folders, and their labels; in alphabetical order, class by class."""
    paths, labels = [], []
    for label, name in enumerate(names):
        found = [file for file in _listed(folder / name) if file.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise FileNotFoundError(f"{folder / name} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def load_rgb(file: Path):
    """The picture in an image file, in colour; a PIL image of any size.

    Raises:
        ValueError: it cannot be read, or has more than 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"it has mode {image.mode}, more than 8 bits a channel")
            return image.convert("RGB")
    except Exception as error:  # a broken file raises OSError, SyntaxError, ValueError and others, by its format
        raise ValueError(f"{file} cannot be read as an image: {error}") from None


def load_images(files: list[Path], labels: list[int]) -> Split:
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
                takes = f"{files[0]} has {first}, and all images take one size; `size` brings them to one"
                raise ValueError(f"{files[number]} has {got} pixels; {takes}")
            images[number] = pixels
    return _split(images, labels)


def _from_path(name: str, splits: dict[str, Split], class_names: tuple[str, ...]) -> Dataset:
    train, validation, test = splits["train"], splits.get("val"), splits["test"]
    padding = train.images.shape[2] // 8  # CIFAR's 4 of 32
    return Dataset(name, train, validation, test, class_names, batch_size=128, padding=padding, flip=True)


def _split(images: np.ndarray, labels: np.ndarray | list) -> Split:
    """Arrays (n, h, w) or (n, h, w, 1 or 3) and (n,) or (n, 1), checked, as a split."""
    pixels, labels = images if images.ndim == 4 else images[..., None], np.asarray(labels)
    if images.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
        takes = "they must be uint8, (n, h, w) or (n, h, w, 3)"
        raise ValueError(f"images are {images.dtype} of shape {images.shape}; {takes}")
    if labels.ndim and len(labels) != len(images):
        raise ValueError(f"labels hold {len(labels)} rows; {len(images)} images take as many")
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.size != len(labels):
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; they must be integers, (n,) or (n, 1)")
    pixels = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return Split(pixels, torch.from_numpy(labels.astype(np.int64).reshape(-1)))
