"""Data sets by name: the only place with downloads."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from mmlib._checks import check_int
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.files import _arrays, _class_names, _files, _folder, _npz, _part, _split, load_images
from mmlib.experiments.data.names import STORED, TAKES
from mmlib.experiments.data.shapes import SHAPES, draw_shapes
from mmlib.experiments.data.split import Split

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
            brought to so many pixels on a side (`mmlib.experiments.data.streaming`).
        workers: processes that read them; 0 reads in this one.

    Raises:
        ValueError: an unknown name, a number that the classes do not have, or arrays that are no data set.
        FileNotFoundError: a path or an archive that is not there.

    >>> len(load("digits").train)
    100
    """
    given = {"labelled_per_class": labelled_per_class, "size": size}
    check_int(1, **{parameter: value for parameter, value in given.items() if value is not None})
    check_int(holdout_per_class=holdout_per_class, seed=seed, workers=workers)
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
        return load_images(*_files(path / "test", _class_names(path / "test")))
    if name and path.is_dir():
        return load_images(*_files(path.absolute().parent, (path.absolute().name,)))
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
        makes = f"{path}, which python -m mmlib.experiments.data.tinyimagenet {str(root)!r} makes"
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
