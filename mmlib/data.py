"""Data sets and mini-batches, drawn and augmented on the device: the only place with paths and downloads.

==================  ===============================================================================================
digits              scikit-learn's 1,797 digits of 8×8 pixels; by default 10 a class to train on
shapes              drawn, 32×32 colour, boxes known (`draw_shapes`); by default 40 a class to train on
cifar10, cifar100   from `root/<name>.npz` in the layout below, or else through torchvision, downloaded into `root`
                    where it is not there yet; in one order, and refused where not the real images
tinyimagenet        200 classes of 64×64 colour, from `root/tinyimagenet.npz` in the layout below; tested on its
                    validation images, for its test images have no labels; 1.2 GB live on the device
path/to/file.npz    MedMNIST's layout: train_images, train_labels, test_images, test_labels; val_images, val_labels
                    and class_names where there are any
path/to/folder      `train/<class>/*.png` and `test/<class>/*.png`; `val/<class>/*.png` where there is one
==================  ===============================================================================================
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.annotations import Float, Int, UInt8
from mmlib.parameters import check_whole
from mmlib.shapes import SHAPES, draw_shapes

__all__ = ["Batches", "Dataset", "Split", "draw_shapes", "load", "load_test", "read_images"]

STORED = ("cifar10", "cifar100", "tinyimagenet")  # in `root`
TAKES = f"digits, shapes, {', '.join(STORED)}, a .npz file or a folder of class folders"
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

# What never depends on the caller's seed: runs of different seeds are compared on the same held-out images.
FIXED_SEED = 20231
DIGITS_TEST_PER_CLASS = 87  # half of the smallest class, 174
SHAPES_VALIDATION, SHAPES_TEST = 1000, 2000
# Fingerprints of the real splits in the order of `_ordered`.
REAL = {
    ("cifar100", "train"): "e3d97969f18d63ed",
    ("cifar100", "test"): "fb09097e1ea2226f",
    ("cifar10", "test"): "9494da79649162c5",
}

Pixels = UInt8[Tensor, "m h w channels"]


@dataclass(frozen=True)
class Split:
    """Images as bytes, their classes and, where the shape was drawn by us, its box.

    Args:
        images: 0..255; loaded ones are NHWC in memory, so that a mini-batch comes out channels-last for free.
        labels: class indices.
        boxes: x0, y0, x1, y1 in pixels; x1 and y1 are exclusive.

    Raises:
        ValueError: images that are not bytes, or another number of labels or boxes than of images.
    """

    images: UInt8[Tensor, "n channels h w"]
    labels: Int[Tensor, " n"]
    boxes: Float[Tensor, "n 4"] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            got = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise ValueError(f"images are {got}; they must be uint8 of shape (n, channels, h, w)")
        for name in ("labels", "boxes"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.images):
                raise ValueError(f"{name} hold {len(value)} rows; {len(self.images)} images take as many")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "Split":
        """The examples at `index`, as a split."""
        return type(self)(*(None if x is None else x[index] for x in (self.images, self.labels, self.boxes)))

    def to(self, device: torch.device | str) -> "Split":
        """The same split on `device`."""
        return type(self)(*(None if x is None else x.to(device) for x in (self.images, self.labels, self.boxes)))

    def first_per_class(self, count: int) -> "Split":
        """The first `count` images of every class, class by class: a small split, balanced and always the same."""
        return self[torch.cat([(self.labels == k).nonzero().flatten()[:count] for k in self.labels.unique()])]

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any pixel, label or box, and not with device or memory layout."""
        digest = hashlib.sha256()
        for array in (self.images.permute(0, 2, 3, 1), self.labels.long(), self.boxes):
            if array is not None:
                digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
                digest.update(array.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test splits, with the mini-batch size and the augmentation to train with.

    Args:
        name: a word without a path, fit for a folder's name.
        validation: None where the whole train set is trained on.
        batch_size, padding, flip: as in `Batches`.

    Raises:
        ValueError: an empty split, images that are not square or differ in shape between splits, or labels
            without a class name.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    batch_size: int
    padding: int
    flip: bool

    def __post_init__(self) -> None:
        channels, height, width = self.train.images.shape[1:]
        if height != width:
            raise ValueError(f"{self.name}: images are {height} x {width} pixels; they must be square")
        for split_name, split in self.splits().items():
            if not len(split):
                raise ValueError(f"{self.name}: the {split_name} split has no images")
            if split.images.shape[1:] != (channels, height, width):
                got, takes = tuple(split.images.shape[1:]), (channels, height, width)
                raise ValueError(f"{self.name}: {split_name} images have shape {got}; those of train have {takes}")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.classes:
                takes = f"{self.classes} class names take 0 to {self.classes - 1}"
                raise ValueError(f"{self.name}: {split_name} labels hold classes {low} to {high}; {takes}")

    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def classes(self) -> int:
        """Number of classes, c."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train.images.shape[1]

    @property
    def size(self) -> int:
        """Pixels on a side."""
        return self.train.images.shape[2]

    @cached_property
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the train images' pixels in [0, 1], per channel."""
        # From counts of the 256 values: exact, so every machine gets the same digits.
        planes = self.train.images.unbind(dim=1)
        counts = torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in planes]).double().cpu()
        values = torch.arange(256, dtype=torch.double) / 255
        shares = counts / counts.sum(dim=1, keepdim=True)
        mean = shares @ values
        std = (shares @ values.square() - mean.square()).clamp(min=0).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of all splits' arrays; two runs with the same ones saw the same data."""
        parts = [f"{name} {split.fingerprint()}" for name, split in self.splits().items()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def batches(self, device: torch.device | str, batch_size: int | None = None, **options) -> "Batches":
        """Mini-batches of the train split on `device`, augmented as this data set takes it.

        Args:
            batch_size: m; None takes the data set's.
            options: `generator`, `dtype` and `share` of `Batches`.
        """
        split, batch_size = self.train.to(device), batch_size or self.batch_size
        return Batches(split, batch_size, padding=self.padding, flip=self.flip, **options)


@dataclass(eq=False, repr=False)
class Batches:
    """Mini-batches of a split that lives on its device as bytes; every iteration is one shuffled epoch.

    An image is shifted and mirrored by its own draws, all images of a mini-batch at once and on the device.
    The last, incomplete mini-batch is dropped, so that m is constant. Models normalise; this does not.

    Args:
        batch_size: m, reduced to the split's size where that is smaller.
        padding: black pixels added to each side before a crop of the original size at a random place.
        flip: mirror an image left to right with probability 1/2.
        generator: the only source of randomness; on the split's device. None uses torch's global one. An epoch
            takes all its draws when it starts, so the state of that moment gives the same epoch again.
        dtype: of the images.
        share: (k, of): the k-th of so many equal parts of every epoch, one for each process of a distributed run.

    Yields:
        Images in [0, 1], (m, channels, h, w), channels-last in memory, and labels, (m,).

    >>> split = Split(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.zeros(10, dtype=torch.long))
    >>> [images.shape for images, labels in Batches(split, 4, padding=1, flip=True)]
    [torch.Size([4, 3, 8, 8]), torch.Size([4, 3, 8, 8])]
    """

    split: Split
    batch_size: int
    _: KW_ONLY
    padding: int = 0
    flip: bool = False
    generator: torch.Generator | None = None
    dtype: torch.dtype = torch.float32
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        check_whole(1, batch_size=self.batch_size)
        check_whole(padding=self.padding)
        if not len(self.split):
            raise ValueError("split has no images; batches take at least one")
        self.part, self.parts = self.share
        self.batch_size = min(self.batch_size, len(self.split) // self.parts)

    def __len__(self) -> int:
        return len(self.split) // self.parts // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = self.split.images.permute(0, 2, 3, 1)
        like = {"generator": self.generator, "device": pixels.device}
        order = torch.randperm(len(pixels), **like)
        top, left = torch.randint(2 * self.padding + 1, (2, len(pixels)), **like)
        mirrored = torch.randint(2, (len(pixels),), **like).bool() & self.flip
        # Every process draws for all images, alike, and takes its part.
        order, top, left, mirrored = (draws[self.part :: self.parts] for draws in (order, top, left, mirrored))
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            draws = slice(start, start + self.batch_size)
            batch = pixels.index_select(0, order[draws])
            if self.padding or self.flip:
                batch = crop(batch, self.padding, top[draws], left[draws], mirrored[draws])
            images = batch.permute(0, 3, 1, 2).to(self.dtype).div_(255)
            yield images, self.split.labels[order[draws]]


def crop(pixels: Pixels, padding: int, top: Int[Tensor, " m"], left: Int[Tensor, " m"], mirrored: Tensor) -> Pixels:
    """Crop every zero-padded image at its own (top, left) to its original size, then mirror it where asked.

    Offsets run from 0 to 2 * padding. All images in one gather of whole pixels.
    """
    m, h, w, channels = pixels.shape
    padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
    columns = torch.arange(w, device=pixels.device)
    columns = left[:, None] + torch.where(mirrored[:, None], w - 1 - columns, columns)
    rows = top[:, None] + torch.arange(h, device=pixels.device)
    rows += torch.arange(m, device=pixels.device)[:, None] * padded.shape[1]
    places = rows[:, :, None] * padded.shape[2] + columns[:, None, :]
    return padded.view(-1, channels).index_select(0, places.view(-1)).view(m, h, w, channels)


def load(
    name: str,
    *,
    root: str | Path = "data",
    labelled_per_class: int | None = None,
    holdout_per_class: int = 0,
    seed: int = 0,
    size: int | None = None,
    workers: int = 0,
) -> Dataset:
    """A data set by its name, or from a path: one of those in the module's table.

    The test split depends on neither `seed` nor the numbers below, and of `shapes` the validation split neither.

    Args:
        root: where downloads are kept.
        labelled_per_class: images of each class to train on, chosen by `seed` (of the same seed, more contain
            fewer; `shapes` draws others); None takes all, or the table's default.
        holdout_per_class: images of each class taken from train as the validation split, the same for every seed;
            for data sets that come without one.
        size: of a folder whose images do not fit in memory or differ in size: they are read as they are needed and
            brought to so many pixels on a side (`mmlib.streaming`).
        workers: processes that read them; 0 reads in this one.

    Raises:
        ValueError: an unknown name, a number that the classes do not have, or arrays that are no data set.
        FileNotFoundError: a path or an archive that is not there.

    >>> len(load("digits").train)
    100
    """
    given = {"labelled_per_class": labelled_per_class, "size": size}
    check_whole(1, **{parameter: value for parameter, value in given.items() if value is not None})
    check_whole(holdout_per_class=holdout_per_class, seed=seed, workers=workers)
    drawn, path = {"digits": _digits, "shapes": _shapes}, Path(name).expanduser()
    if size is not None and (name in drawn or name in STORED or path.suffix == ".npz"):
        raise ValueError(f"size is {size!r}; {name} takes None: only images of a folder are brought to a size")
    if name in drawn:
        dataset, labelled_per_class = drawn[name](labelled_per_class, seed), None
    elif name in STORED:
        dataset = _stored(name, Path(root))
    elif path.suffix == ".npz":
        dataset = _npz(path)
    elif name and path.is_dir():
        dataset = _folder(path, size, workers)
    else:
        raise _absent("dataset", name, TAKES)
    return _choose(dataset, labelled_per_class, holdout_per_class, seed)


def _absent(what: str, name: str, takes: str) -> Exception:
    there = ", which is not there" if len(Path(name).parts) > 1 else ""
    return (FileNotFoundError if there else ValueError)(f"{what} is {name!r}{there}; it takes {takes}")


def load_test(name: str, *, root: str | Path = "data") -> Split:
    """The test images of a data set that nobody trains on here, such as one to be told apart from another.

    Args:
        name: as in `load`; `svhn`, through torchvision; a .npz file or a folder that may lack what is trained on,
            or a folder of images without classes, which all become class 0. CIFAR is read from `cifar10.npz` or
            `cifar100.npz` in `root` where it is there.
        root: where downloads are kept.

    Raises:
        ValueError: an unknown name, or arrays that are no images and classes.
        FileNotFoundError: a path or an archive that is not there.

    >>> len(load_test("digits"))
    870
    """
    path = Path(name).expanduser()
    if name == "svhn":
        test = _torchvision("SVHN", Path(root), split="test")
        return _split(test.data.transpose(0, 2, 3, 1), test.labels)
    if name in STORED:
        return _stored_split(name, "test", Path(root))[0]
    if name in ("digits", "shapes"):
        return load(name, root=root).test
    if path.suffix == ".npz":
        return _part(path, _arrays(path), "test")
    if name and (path / "test").is_dir():
        return read_images(*_files(path / "test", _class_names(path / "test")))
    if name and path.is_dir():
        return read_images(*_files(path.absolute().parent, (path.absolute().name,)))
    raise _absent("test set", name, f"svhn, {TAKES} or of images")


def _torchvision(name: str, root: Path, **options):
    """One of torchvision's data sets, downloaded where it is not there."""
    from torchvision import datasets

    try:
        return getattr(datasets, name)(root, download=True, **options)
    except (OSError, RuntimeError) as error:  # no network, or another checksum
        name = name.lower()
        takes = f"{root / name}.npz or " * (name in STORED) + "torchvision's download"
        raise FileNotFoundError(f"{name} is not in root {str(root)!r}; it takes {takes}: {error}") from error


def _choose(dataset: Dataset, labelled_per_class: int | None, holdout_per_class: int, seed: int) -> Dataset:
    train, validation = dataset.train, dataset.validation
    if holdout_per_class:
        if validation is not None:
            raise ValueError(f"holdout_per_class is {holdout_per_class}; {dataset.name} takes 0, for it has its own")
        validation, train = _divide(train, holdout_per_class, FIXED_SEED, "holdout_per_class", dataset.class_names)
    if labelled_per_class is not None:
        train, _ = _divide(train, labelled_per_class, seed, "labelled_per_class", dataset.class_names)
    return dataclasses.replace(dataset, train=train, validation=validation)


def _divide(split: Split, per_class: int, seed: int, parameter: str, names: tuple[str, ...]) -> tuple[Split, Split]:
    """The images chosen, `per_class` of each class, and the others; both in the split's order."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(split)))
    chosen = torch.zeros(len(split), dtype=torch.bool)
    for label, name in enumerate(names):
        members = order[split.labels[order] == label]
        if len(members) < per_class:
            raise ValueError(f"{parameter} is {per_class}; class {name!r} has {len(members)} images to choose from")
        chosen[members[:per_class]] = True
    return split[chosen], split[~chosen]


def _digits(labelled_per_class: int | None, seed: int) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)  # sixteen steps of grey
    names = tuple(str(name) for name in bunch.target_names)
    test, pool = _divide(_split(images, bunch.target), DIGITS_TEST_PER_CLASS, FIXED_SEED, "test", names)
    train, validation = _divide(pool, labelled_per_class or 10, seed, "labelled_per_class", names)
    return Dataset("digits", train, validation, test, names, batch_size=50, padding=1, flip=False)


def _shapes(labelled_per_class: int | None, seed: int) -> Dataset:
    train = Split(*draw_shapes((labelled_per_class or 40) * len(SHAPES), seed=(0, seed)))
    validation = Split(*draw_shapes(SHAPES_VALIDATION, seed=(1, FIXED_SEED)))
    test = Split(*draw_shapes(SHAPES_TEST, seed=(2, FIXED_SEED)))
    return Dataset("shapes", train, validation, test, tuple(SHAPES), batch_size=50, padding=2, flip=True)


def _stored(name: str, root: Path) -> Dataset:
    (train, names), (test, _) = (_stored_split(name, part, root) for part in ("train", "test"))
    return Dataset(name, train, None, test, names, batch_size=128, padding=4, flip=True)


def _stored_split(name: str, part: str, root: Path) -> tuple[Split, tuple[str, ...]]:
    """The train or test split of a data set in `root` and the class names; refused where not the real images."""
    path = root / f"{name}.npz"
    if path.exists():
        arrays = _arrays(path, part)
        split = _part(path, arrays, part)
        names = arrays.get("class_names", range(1 + int(split.labels.max())))
    elif name == "tinyimagenet":
        makes = f"{path}, which python -m mmbook.tinyimagenet {str(root)!r} makes"
        raise FileNotFoundError(f"tinyimagenet is not in root {str(root)!r}; it takes {makes}")
    else:
        held = _torchvision(name.upper(), root, train=part == "train")
        split, names = _split(held.data, held.targets), held.classes
    split = _ordered(split)
    real = REAL.get((name, part))
    if real and split.fingerprint() != real:
        got = f"{len(split)} images of shape {tuple(split.images.shape[1:])}, fingerprint {split.fingerprint()}"
        raise ValueError(f"root {str(root)!r} does not hold the real {name}: {part} has {got}; it takes {real}")
    return split, tuple(str(name) for name in names)


def _ordered(split: Split) -> Split:
    """By class, and within a class by pixels: the same from every source."""
    rows = np.ascontiguousarray(split.images.permute(0, 2, 3, 1).flatten(1).numpy())
    by_pixels = np.argsort(rows.view(f"V{rows.shape[1]}").ravel(), kind="stable")
    order = by_pixels[np.argsort(split.labels.numpy()[by_pixels], kind="stable")]
    return split[torch.from_numpy(order)]


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
        from mmlib.streaming import from_files

        return from_files(path, files, names, size, workers)
    return _from_path(path.resolve().name, {part: read_images(*of_part) for part, of_part in files.items()}, names)


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


def open_picture(file: Path):
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


def read_images(files: list[Path], labels: list[int]) -> Split:
    """The images of files that have one size, in colour, as a split.

    Raises:
        ValueError: a file that is no image, or has another size than the first.
    """
    with ThreadPool() as pool:
        for number, pixels in enumerate(pool.imap(lambda file: np.asarray(open_picture(file)), files, chunksize=64)):
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
