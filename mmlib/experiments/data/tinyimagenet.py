"""Make `tinyimagenet.npz`, which `mmlib.experiments.data` reads, of TinyImageNet's folder, its archive or its download.

python -m mmlib.experiments.data.tinyimagenet data

It stands in the folder that is named; what is downloaded and unpacked is gone afterwards, also where that fails.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from mmlib.experiments.data.files import load_images

NAME = "tiny-imagenet-200"
# As the loaders of several public repositories have them; for this book neither could be tried.
URL, MD5 = f"http://cs231n.stanford.edu/{NAME}.zip", "90528d7ca1a48142e341f4ef8d21d0de"
COUNTS = {"train": 100_000, "test": 10_000}


def make(root: Path) -> Path:
    """Write `root/tinyimagenet.npz`, 1.35 GB, from the folder or the archive beside it, or else from the download.

    Returns:
        The file; one that is there already is left as it is.

    Raises:
        ValueError: an archive or a folder that is not the whole TinyImageNet.
        FileNotFoundError: it cannot be downloaded.
        ImportError: torchvision is not installed.
    """
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    path, archive = root / "tinyimagenet.npz", root / f"{NAME}.zip"
    if path.exists():
        return path
    root.mkdir(parents=True, exist_ok=True)
    if archive.exists() and not check_integrity(archive, MD5):
        raise ValueError(f"{archive} is not the real archive: its MD5 checksum is not {MD5}")
    with tempfile.TemporaryDirectory(prefix="tinyimagenet-", dir=root) as scratch:
        if not (folder := root / NAME).is_dir():
            folder, place = Path(scratch, NAME), root if archive.exists() else scratch
            try:
                download_and_extract_archive(URL, place, scratch, archive.name, MD5)
            except (OSError, RuntimeError) as error:  # no network, or another checksum
                takes = f"{archive} or the download of {URL}, MD5 checksum {MD5}: {error}"
                raise FileNotFoundError(f"tinyimagenet is not in root {str(root)!r}; it takes {takes}") from error
        whole = Path(scratch, "whole.npz")
        np.savez(whole, **_arrays(folder))
        whole.replace(path)
    return path


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    """What is in the archive's folder, in the layout of a .npz file: its validation images as the test split.

    Raises:
        ValueError: it has not as many images or classes as TinyImageNet.
    """
    train = sorted((folder / "train").glob("*/images/*.JPEG"))
    lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    annotated = sorted(line.split("\t")[:2] for line in lines)
    files = {"train": train, "test": [folder / "val" / "images" / name for name, _ in annotated]}
    labels = {"train": [file.parts[-3] for file in train], "test": [wnid for _, wnid in annotated]}
    wnids = sorted(set(labels["train"]))
    made = {"class_names": np.array(_class_words(folder / "words.txt", wnids))}
    for part, count in COUNTS.items():
        if len(files[part]) != count or set(labels[part]) != set(wnids):
            got = f"{len(files[part])} images of {len(set(labels[part]))} classes to {part} on"
            raise ValueError(f"{folder} is not the whole TinyImageNet: it has {got}; it takes {count}")
        split = load_images(files[part], [wnids.index(wnid) for wnid in labels[part]])
        made |= {f"{part}_images": split.images.permute(0, 2, 3, 1).numpy(), f"{part}_labels": split.labels.numpy()}
    return made


def _class_words(path: Path, wnids: list[str]) -> list[str]:
    """The first of WordNet's words for each class; where there is no such file, the numbers of the classes."""
    lines = path.read_text().splitlines() if path.exists() else []
    words = dict(line.split("\t", 1) for line in lines)
    return [words.get(wnid, wnid).split(",")[0] for wnid in wnids]


def main(arguments: list[str]) -> None:
    """Make the file, then say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    print(make(parser.parse_args(arguments).root))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"tinyimagenet: {error}")
