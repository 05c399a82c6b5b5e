"""Make `tinyimagenet.npz` from TinyImageNet's folder, its archive or its download.

    python -m mmlib.experiments.data.tinyimagenet data

The file, which `mmlib.experiments.data.load` reads, is put into the folder that is named. What is downloaded and
unpacked on the way is removed afterwards, also after a failure.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from mmlib.experiments.data.downloads import name_failures, scratch_folder
from mmlib.experiments.data.files import load_images

NAME = "tiny-imagenet-200"
# As the loaders of several public repositories have them; for this book neither could be tried.
URL, MD5 = f"http://cs231n.stanford.edu/{NAME}.zip", "90528d7ca1a48142e341f4ef8d21d0de"
COUNTS = {"train": 100_000, "test": 10_000}


def make(root: Path) -> Path:
    """Write `root/tinyimagenet.npz`, 1.35 GB, from the folder or the archive beside it, or else from the download.

    Returns:
        Path of the file; one that is there already is left as it is.

    Raises:
        ValueError: an archive or a folder that is not the whole TinyImageNet.
        FileNotFoundError: it cannot be downloaded.
        ImportError: torchvision is not installed.
    """
    path = root / "tinyimagenet.npz"
    if not path.exists():
        with scratch_folder("tinyimagenet", root) as scratch:
            partial = scratch / "partial.npz"
            np.savez(partial, **_arrays(_unpacked(root, scratch)))
            partial.replace(path)
    return path


def _unpacked(root: Path, scratch: Path) -> Path:
    """The folder in `root`; or else one in `scratch`, unpacked from the archive in `root` or from the download."""
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    archive, folder = root / f"{NAME}.zip", root / NAME
    if archive.exists() and not check_integrity(archive, MD5):
        raise ValueError(f"{archive} must be the real archive, of MD5 checksum {MD5}, got another")
    if folder.is_dir():
        return folder
    with name_failures("tinyimagenet", root, f"{archive} or the download of {URL}, MD5 checksum {MD5}"):
        download_and_extract_archive(URL, root if archive.exists() else scratch, scratch, archive.name, MD5)
    return scratch / NAME


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    """The images of an unpacked archive as the arrays of an .npz file, its validation images as the test split.

    Raises:
        ValueError: it has not as many images or classes as TinyImageNet.
    """
    train = sorted((folder / "train").glob("*/images/*.JPEG"))
    lines = (folder / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
    annotated = sorted(line.split("\t")[:2] for line in lines)
    files = {"train": train, "test": [folder / "val" / "images" / name for name, _ in annotated]}
    labels = {"train": [file.parts[-3] for file in train], "test": [wnid for _, wnid in annotated]}
    wnids = sorted(set(labels["train"]))
    arrays = {"class_names": np.array(_class_words(folder / "words.txt", wnids))}
    for name, count in COUNTS.items():
        if len(files[name]) != count or set(labels[name]) != set(wnids):
            got = f"{len(files[name])} of {len(set(labels[name]))} classes"
            wanted = f"{count} {name} images of {len(wnids)} classes"
            raise ValueError(f"{folder} must be the whole TinyImageNet with {wanted}, got {got}")
        split = load_images(files[name], [wnids.index(wnid) for wnid in labels[name]])
        arrays |= {f"{name}_images": split.pixels.numpy(), f"{name}_labels": split.labels.numpy()}
    return arrays


def _class_words(path: Path, wnids: list[str]) -> list[str]:
    """The first of WordNet's words for each class; where there is no such file, the numbers of the classes."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    words = dict(line.split("\t", 1) for line in lines)
    return [words.get(wnid, wnid).split(",")[0] for wnid in wnids]


def main(arguments: list[str]) -> None:
    """Make the file, then print its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets that the file is put into")
    print(make(parser.parse_args(arguments).root))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"tinyimagenet: {error}")
