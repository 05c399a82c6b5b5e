"""Images that do not fit on the device: read from their files as they are needed, by a pool of workers.

A streamed data set stands in for one that lives on the device (`mmlib.experiments.data`) everywhere. Its mini-batches stay bytes
on the way there, too.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmlib._typing import UInt8
from mmlib.experiments.data.batches import Batches
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.files import load_rgb
from mmlib.experiments.data.split import Split

IMAGENET_MOMENTS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # published mean and standard deviation
Files = dict[str, tuple[list[Path], list[int]]]  # and their labels, by split
Views = UInt8[Tensor, "m 3 size size"]
SEEDS = 2**32  # torch's CPU generator heeds 32 bits of a seed


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files as one array of bytes, (n, 3, size, size), of which nothing is held.

    Args:
        root: the folder that names are relative to.
        names: of the files, (n,).
        size: pixels on a side that every picture is brought to.
        workers: processes that decode; with 0 this one does. The number does not decide the result.
        device: where mini-batches go.
    """

    root: Path
    names: np.ndarray
    size: int
    workers: int = 0
    device: str = "cpu"

    dtype, ndim = torch.uint8, 4

    @property
    def shape(self) -> torch.Size:
        """(n, 3, size, size)."""
        return torch.Size((len(self), 3, self.size, self.size))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: slice | Tensor | list[int]) -> "ImageFiles":
        """The pictures at `index`; none is read."""
        return replace(self, names=self.names[index.cpu().numpy() if isinstance(index, Tensor) else index])

    def to(self, device: torch.device | str) -> "ImageFiles":
        """The same pictures, their mini-batches on `device`."""
        return replace(self, device=str(device))

    def split(self, batch_size: int) -> Iterator[Views]:
        """Read all of them for evaluation, in order.

        The shorter side is resized to 8/7 of `size` and the centre cut out: 256 and 224 on ImageNet, as usual there.
        """
        from torchvision.transforms import v2

        view = v2.Compose([v2.Resize(round(self.size * 8 / 7)), v2.CenterCrop(self.size)])
        everything = np.arange(len(self))
        parts = [everything[start : start + batch_size] for start in range(0, len(self), batch_size)]
        return self.read(((part, np.zeros_like(part)) for part in parts), view)

    def read(self, requests: Iterable[tuple[np.ndarray, np.ndarray]], view: Callable) -> Iterator[Views]:
        """Mini-batches, channels-last in memory: of each the indices of its pictures and a seed for every view.

        Raises:
            ValueError: a file that is no image, by its name.
        """
        # A generator of its own: a DataLoader draws from the global one otherwise.
        options = {"num_workers": self.workers, "generator": torch.Generator()}
        pinned = torch.device(self.device).type == "cuda"
        loader = DataLoader(_Views(self, view), batch_size=None, sampler=requests, pin_memory=pinned, **options)
        for pixels in loader:
            if isinstance(pixels, ValueError):
                raise pixels
            yield pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)


class _Views(torch.utils.data.Dataset):
    """What a worker does with a request: decode and view its pictures, each by the draws of its own seed."""

    def __init__(self, pictures: ImageFiles, view: Callable) -> None:
        self.pictures, self.view = pictures, view

    def __getitem__(self, request: tuple[np.ndarray, np.ndarray]) -> Tensor | ValueError:
        indices, seeds = request
        # torchvision draws from the global generator, which is that of the whole program where there is no worker.
        with torch.random.fork_rng(devices=[]):
            try:
                return torch.stack([self._pixels(*one) for one in zip(indices.tolist(), seeds.tolist())])
            except ValueError as error:  # returned, for a DataLoader would raise it with both processes' stacks
                return error

    def _pixels(self, index: int, seed: int) -> UInt8[Tensor, "size size 3"]:
        picture = load_rgb(self.pictures.root / self.pictures.names[index])
        torch.default_generator.manual_seed(seed)
        return torch.from_numpy(np.array(self.view(picture)))


@dataclass(frozen=True)
class StreamedSplit(Split):
    """A split whose images are files.

    >>> pictures = ImageFiles(Path("photos"), np.array(["cat/1.jpg", "dog/1.jpg"]), size=224)
    >>> StreamedSplit(pictures, torch.tensor([0, 1])).images.shape
    torch.Size([2, 3, 224, 224])
    """

    images: ImageFiles

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the name, length or label of any file and with the images' size.

        No file is read, for there may be millions: other content of the same length goes unnoticed.
        """
        digest = hashlib.sha256(str(self.images.size).encode())
        for name, label in zip(self.images.names, self.labels.tolist()):
            digest.update(os.fsencode(f"{name}\0{(self.images.root / name).stat().st_size}\0{label}\n"))
        return digest.hexdigest()[:16]


class StreamedBatches(Batches):
    """Mini-batches of a streamed split, as those of `Batches` otherwise; not padded.

    Every image is a random part of its picture, 8 to 100 % of the area and 3:4 to 4:3 in shape, resized, and mirrored
    if `flip`: torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`, the published recipe on ImageNet.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        from torchvision.transforms import v2

        images, labels = self.split.images, self.split.labels
        n, device, generator = len(labels), labels.device, self.augmentation_generator
        transform = v2.Compose([v2.RandomResizedCrop(images.size), v2.RandomHorizontalFlip(0.5 * self.flip)])
        order = self.take_shard(torch.randperm(n, generator=self.generator, device=device))
        seeds = self.take_shard(torch.randint(SEEDS, (n,), generator=generator, device=device))
        requests = zip(*(x.cpu().numpy().reshape(-1, self.batch_size) for x in (order, seeds)))
        for pixels, index in zip(images.read(requests, transform), order.split(self.batch_size)):
            yield pixels.to(self.dtype).div_(255), labels[index]


class StreamedDataset(Dataset):
    """A data set of image files.

    Its mean and standard deviation are those published for ImageNet, whatever it shows (our choice): measuring them
    takes reading everything, and a network needs their order of magnitude.
    """

    moments = IMAGENET_MOMENTS

    def batches(
        self,
        device: torch.device | str,
        batch_size: int | None = None,
        *,
        generator: torch.Generator | None = None,
        augmentation_generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        shard: tuple[int, int] = (0, 1),
    ) -> StreamedBatches:
        """Mini-batches of the train split on `device`; arguments as those of `Dataset.batches`."""
        return StreamedBatches(
            self.train.to(device),
            self.batch_size if batch_size is None else batch_size,
            flip=self.flip,
            generator=generator,
            augmentation_generator=augmentation_generator,
            dtype=dtype,
            shard=shard,
        )


def build_streamed_dataset(
    root: Path, files: Files, class_names: tuple[str, ...], size: int, workers: int = 0
) -> StreamedDataset:
    """The data set of image files below `root`, with their labels, by split: train, val where there is one, test."""
    splits = {}
    for part, (paths, labels) in files.items():
        names = np.array([path.relative_to(root).as_posix() for path in paths])
        splits[part] = StreamedSplit(ImageFiles(root, names, size, workers), torch.tensor(labels))
    train, validation, test = splits["train"], splits.get("val"), splits["test"]
    name = root.resolve().name
    return StreamedDataset(name, train, validation, test, class_names, batch_size=128, padding=0, flip=True)
