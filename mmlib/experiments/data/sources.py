"""Data sets by name: the only place with downloads."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from mmlib._checks import check_int, nearest
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.downloads import load_torchvision
from mmlib.experiments.data.files import (
    class_names_from_arrays,
    list_classes,
    list_images,
    list_visible,
    load_images,
    make_split,
    read_arrays,
    split_from_arrays,
)
from mmlib.experiments.data.names import ACCEPTED_NAMES, ARCHIVED_DATASETS, NAMES
from mmlib.experiments.data.shapes import SHAPES, draw_shapes
from mmlib.experiments.data.split import Split
from mmlib.experiments.data.streaming import ImageFiles, build_streamed_dataset

# Seed of the splits that never depend on the caller's: runs of different seeds are compared on the same images.
FIXED_SEED = 20231

TORCHVISION = "torchvision's download"
VALIDATION_FOLDERS = ("val", "valid", "validation")
ARRAYS = (*(f"{split}_{what}" for split in ("train", "val", "test") for what in ("images", "labels")), "class_names")
DIGITS_TEST_PER_CLASS = 87  # half of the smallest class, 174
SHAPES_VALIDATION, SHAPES_TEST = 1000, 2000  # images

# Fingerprints of the real splits in the order of `_canonical_order`.
KNOWN_FINGERPRINTS = {
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
    for parameter, value in (("labelled_per_class", labelled_per_class), ("size", size)):
        if value is not None:
            check_int(1, **{parameter: value})
    check_int(holdout_per_class=holdout_per_class, seed=seed, workers=workers)
    path, drawn = Path(name).expanduser(), {"digits": _digits, "shapes": _shapes}
    if size is not None and (name in drawn or name in ARCHIVED_DATASETS or path.suffix == ".npz"):
        raise ValueError(f"size must be None for {name}, got {size!r}: only images of a folder are brought to a size")
    if name in drawn:
        dataset, labelled_per_class = drawn[name](labelled_per_class, seed), None
    elif name in ARCHIVED_DATASETS:
        dataset = _archived(name, Path(root))
    elif path.suffix == ".npz":
        dataset = _npz(path)
    elif name and path.is_dir():
        dataset = _folder(path, size, workers)
    else:
        raise _not_found("dataset", name, ACCEPTED_NAMES)
    return _subsample(dataset, labelled_per_class, holdout_per_class, seed)


def load_test(name: str, *, root: str | Path = "data", size: int | None = None) -> Split:
    """The test images of a data set that nobody trains on here, such as one to be told apart from another.

    Args:
        name: as in `load`; `svhn`, through torchvision; a .npz file or a folder that may lack a train split, or a
            folder of images without classes, which all become class 0. CIFAR is read from `cifar10.npz` or
            `cifar100.npz` in `root` where it is there.
        root: where downloads are kept.
        size: pixels on a side that a folder's images are brought to, as for the evaluation of a streamed data set;
            None takes images of one size as they are. Nothing else is brought to a size here.

    Raises:
        ValueError: an unknown name, or arrays that are no images and classes.
        FileNotFoundError: a path or an archive that is not there.

    >>> len(load_test("digits"))
    870
    """
    path = Path(name).expanduser()
    if name == "svhn":
        from torchvision.datasets import SVHN

        test = load_torchvision(SVHN, name, Path(root), TORCHVISION, split="test")
        return make_split(test.data.transpose(0, 2, 3, 1), np.array(test.labels))
    if name in ARCHIVED_DATASETS:
        return _archived_split(name, "test", Path(root))[0]
    if name in ("digits", "shapes"):
        return load(name, root=root).test
    if path.suffix == ".npz":
        return split_from_arrays(path, read_arrays(path), "test")
    if name and (path / "test").is_dir():
        files, labels = list_images(path / "test", list_classes(path / "test"))
    elif name and path.is_dir():
        files, labels = list_images(path.absolute().parent, (path.absolute().name,))
    else:
        raise _not_found("test set", name, f"svhn, {ACCEPTED_NAMES} or of images")
    if size is None:
        return load_images(files, labels)
    names = np.array([file.relative_to(path.absolute()).as_posix() for file in map(Path.absolute, files)])
    return Split(ImageFiles(path.absolute(), names, size), torch.tensor(labels))


def _not_found(argument: str, name: str, wanted: str) -> Exception:
    message = f"{argument} must be {wanted}, got {name!r}"
    is_missing_path = name != Path(name).name and not Path(name).expanduser().exists()  # also `./mine` is a path
    if is_missing_path:
        return FileNotFoundError(f"{message}, which is not there")
    return ValueError(message + nearest(name, NAMES))


def _subsample(dataset: Dataset, labelled_per_class: int | None, holdout_per_class: int, seed: int) -> Dataset:
    """The data set with a validation split held out of train, and so many images of each class left in train."""
    train, validation, names = dataset.train, dataset.validation, dataset.class_names
    if holdout_per_class:
        if validation is not None:
            wanted = f"holdout_per_class must be 0 for {dataset.name}, which has a validation split"
            raise ValueError(f"{wanted}, got {holdout_per_class}")
        validation, train = _stratified_split(train, holdout_per_class, FIXED_SEED, "holdout_per_class", names)
    if labelled_per_class is not None:
        train, _ = _stratified_split(train, labelled_per_class, seed, "labelled_per_class", names)
    return dataclasses.replace(dataset, train=train, validation=validation)


def _stratified_split(
    split: Split, per_class: int, seed: int, parameter: str, class_names: tuple[str, ...]
) -> tuple[Split, Split]:
    """The images chosen, `per_class` of each class, and the others; both in the split's order."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(split)))
    chosen = torch.zeros(len(split), dtype=torch.bool)
    for label, name in enumerate(class_names):
        members = order[split.labels[order] == label]
        if len(members) < per_class:
            raise ValueError(f"{parameter} must be at most {len(members)}, the images of {name!r}, got {per_class}")
        chosen[members[:per_class]] = True
    return split[chosen], split[~chosen]


def _digits(labelled_per_class: int | None, seed: int) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)  # sixteen steps of grey
    names = tuple(str(name) for name in bunch.target_names)
    whole = make_split(images, bunch.target)
    test, pool = _stratified_split(whole, DIGITS_TEST_PER_CLASS, FIXED_SEED, "test", names)
    train, validation = _stratified_split(pool, labelled_per_class or 10, seed, "labelled_per_class", names)
    return Dataset("digits", train, validation, test, names, batch_size=50, padding=1, flip=False)


def _shapes(labelled_per_class: int | None, seed: int) -> Dataset:
    train = Split(*draw_shapes((labelled_per_class or 40) * len(SHAPES), seed=(0, seed)))
    validation = Split(*draw_shapes(SHAPES_VALIDATION, seed=(1, FIXED_SEED)))
    test = Split(*draw_shapes(SHAPES_TEST, seed=(2, FIXED_SEED)))
    return Dataset("shapes", train, validation, test, tuple(SHAPES), batch_size=50, padding=2, flip=True)


def _archived(name: str, root: Path) -> Dataset:
    train, names = _archived_split(name, "train", root)
    test, _ = _archived_split(name, "test", root)
    return Dataset(name, train, None, test, names, batch_size=128, padding=4, flip=True)


def _archived_split(name: str, split_name: str, root: Path) -> tuple[Split, tuple[str, ...]]:
    """The train or test split of a data set in `root` and the class names; refused where not the real images."""
    path = root / f"{name}.npz"
    if path.exists():
        arrays = read_arrays(path, split_name)
        split = split_from_arrays(path, arrays, split_name)
        class_names = class_names_from_arrays(path, arrays) or tuple(map(str, range(1 + int(split.labels.max()))))
    elif name == "tinyimagenet":
        made_by = f"python -m mmlib.experiments.data.tinyimagenet {str(root)!r} makes"
        raise FileNotFoundError(f"tinyimagenet is not in root {str(root)!r}; it takes {path}, which {made_by}")
    else:
        from torchvision.datasets import CIFAR10, CIFAR100

        cifar, wanted = (CIFAR10 if name == "cifar10" else CIFAR100), f"{path} or {TORCHVISION}"
        source = load_torchvision(cifar, name, root, wanted, train=split_name == "train")
        split, class_names = make_split(source.data, np.array(source.targets)), tuple(source.classes)
    split = _canonical_order(split)
    known = KNOWN_FINGERPRINTS.get((name, split_name))
    if known and (found := split.fingerprint()) != known:
        got = f"{len(split)} images of shape {tuple(split.images.shape[1:])}, fingerprint {found}"
        raise ValueError(f"root {str(root)!r} must hold the real {name}, whose {split_name} is {known}, got {got}")
    return split, class_names


def _canonical_order(split: Split) -> Split:
    """The split by class, and within a class by pixels: the same from every source."""
    rows = np.ascontiguousarray(split.pixels.flatten(1).numpy())
    by_pixels = np.argsort(rows.view(f"V{rows.shape[1]}").ravel(), kind="stable")
    order = by_pixels[np.argsort(split.labels.numpy()[by_pixels], kind="stable")]
    return split[torch.from_numpy(order)]


def _npz(path: Path) -> Dataset:
    """A data set from an archive in MedMNIST's layout (`mmlib.experiments.data`).

    Where the archive names no classes, the distinct labels of its train split are the classes, named by their
    numbers: labels that start at 1 or are the ids of something else serve as they are.
    """
    arrays = read_arrays(path)
    splits = {
        name: split_from_arrays(path, arrays, name)
        for name in ("train", "val", "test")
        if name != "val" or any(key.startswith("val_") for key in arrays)
    }
    _refuse_unknown(path, "arrays", ARRAYS, arrays)
    names = class_names_from_arrays(path, arrays)
    if names is None:
        ids = splits["train"].labels.unique()
        splits = {name: _index_labels(path, name, split, ids) for name, split in splits.items()}
        names = tuple(str(label) for label in ids.tolist())
    return _dataset_from_splits(path, path.stem, splits, names)


def _refuse_unknown(path: Path, kind: str, known: Iterable[str], found: Iterable[str]) -> None:
    """Refuse what would be passed over without a word, such as images to validate by another name."""
    if unknown := sorted(set(found) - set(known)):
        raise ValueError(f"{path} must have no {kind} but {', '.join(known)}, got {', '.join(unknown)}")


def _index_labels(path: Path, name: str, split: Split, ids: torch.Tensor) -> Split:
    """The split with every label replaced by its place among `ids`, the sorted labels of the train split."""
    unknown = split.labels[~torch.isin(split.labels, ids)].unique().tolist()
    negative = split.labels[split.labels < 0].unique().tolist()
    if unknown or negative:
        got = ", ".join(map(str, (unknown or negative)[:5]))
        raise ValueError(f"{path}: {name}_labels must be among train's and not negative, got {got}")
    return Split(split.images, torch.searchsorted(ids, split.labels))


def _folder(path: Path, size: int | None, workers: int) -> Dataset:
    """A data set from a folder of `train`, `test` and perhaps `val`, each with a folder for every class.

    Args:
        size, workers: as in `load`; with a size the data set is a streamed one.
    """
    folders = _split_folders(path)
    class_names = list_classes(folders["train"])
    files = {}
    for name, folder in folders.items():
        if (found := list_classes(folder)) != class_names:
            differ = ", ".join(sorted(set(found) ^ set(class_names)))
            raise ValueError(f"{folder} and {folders['train']} must have the same classes, got a difference: {differ}")
        files[name] = list_images(folder, class_names)
    if size is not None:
        return build_streamed_dataset(path, files, class_names, size, workers)
    splits = {name: load_images(paths, labels) for name, (paths, labels) in files.items()}
    return _dataset_from_splits(path, path.resolve().name, splits, class_names)


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders of the splits in a data set's folder, by the names of the splits; it may have no others."""
    folders = {"train": path / "train", "test": path / "test"}
    validation = [path / name for name in VALIDATION_FOLDERS if (path / name).is_dir()]
    if len(validation) > 1:
        got = ", ".join(folder.name for folder in validation)
        raise ValueError(f"{path} must have one folder of validation images, got {got}")
    if validation:
        folders = {"train": path / "train", "val": validation[0], "test": path / "test"}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise FileNotFoundError(f"{path} must have train/<class> and test/<class>, got no folder {name!r}")
    known = ("train", "test", *VALIDATION_FOLDERS)
    _refuse_unknown(path, "folders", known, (item.name for item in list_visible(path) if item.is_dir()))
    return folders


def _dataset_from_splits(path: Path, name: str, splits: dict[str, Split], class_names: tuple[str, ...]) -> Dataset:
    train, validation, test = splits["train"], splits.get("val"), splits["test"]
    padding = train.images.shape[2] // 8  # CIFAR's 4 of 32
    try:
        return Dataset(name, train, validation, test, class_names, batch_size=128, padding=padding, flip=True)
    except ValueError as error:  # it names the data set, and a user looks for the file
        raise ValueError(f"{path}: {str(error).removeprefix(f'{name}: ')}") from None
