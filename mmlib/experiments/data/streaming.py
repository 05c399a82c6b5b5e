"""Images that do not fit on the device: read from their files as they are needed, by a pool of workers.

A streamed data set stands in everywhere for one that lives on the device. Its mini-batches are bytes until they are
on the device.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

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
NUM_SEEDS = 2**32  # torch's CPU generator heeds 32 bits of a seed

Files = dict[str, tuple[list[Path], list[int]]]  # paths and labels of every split
Request = tuple[np.ndarray, np.ndarray]  # indices of a mini-batch's images, and a seed for each
T = TypeVar("T")
ByteImages = UInt8[Tensor, "m 3 size size"]


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files that stand in for a tensor of images, (n, 3, size, size), and are read when they are needed.

    Args:
        root: the folder that names are relative to.
        names: of the files, (n,).
        size: pixels on a side that every image is brought to.
        workers: processes that decode; with 0 this process does. The number does not change the result.
        device: where mini-batches go.

    >>> files = ImageFiles(Path("photos"), np.array(["cat/1.jpg", "dog/1.jpg"]), size=224)
    >>> Split(files, torch.tensor([0, 1])).images.shape
    torch.Size([2, 3, 224, 224])
    """

    root: Path
    names: np.ndarray
    size: int
    workers: int = 0
    device: str = "cpu"

    @property
    def shape(self) -> torch.Size:
        """(n, 3, size, size)."""
        return torch.Size((len(self), 3, self.size, self.size))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: slice | Tensor | list[int]) -> "ImageFiles":
        """The files at `index`; none is read."""
        return replace(self, names=self.names[index.cpu().numpy() if isinstance(index, Tensor) else index])

    def to(self, device: torch.device | str) -> "ImageFiles":
        """The same files, their mini-batches on `device`."""
        return replace(self, device=str(device))

    def listing(self) -> UInt8[Tensor, " k"]:
        """The size of the images, and the name and the length of every file, as bytes: a short stand-in for them all.

        No file is read, for there may be millions: other content of the same length goes unnoticed.
        """
        lines = [os.fsencode(f"{name}\0{(self.root / name).stat().st_size}\n") for name in self.names]
        return torch.frombuffer(bytearray(b"".join([b"%d\n" % self.size, *lines])), dtype=torch.uint8)

    def split(self, batch_size: int) -> Iterator[ByteImages]:
        """Read all images for evaluation, in order.

        The shorter side is resized to 8/7 of `size` and the centre cut out: 256 and 224 on ImageNet, as usual there.
        """
        from torchvision.transforms import v2

        transform = v2.Compose([v2.Resize(round(self.size * 8 / 7)), v2.CenterCrop(self.size)])
        indices = np.arange(len(self))
        batches = [indices[start : start + batch_size] for start in range(0, len(self), batch_size)]
        return self.read(self.loader([(batch, np.zeros_like(batch)) for batch in batches], transform))

    def loader(self, requests: Iterable[Request], transform: Callable) -> DataLoader:
        """A loader of one mini-batch for every request, whose workers live as long as it does."""
        return DataLoader(
            _TransformedImages(self, transform),
            batch_size=None,
            sampler=requests,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.device(self.device).type == "cuda",
            generator=torch.Generator(),  # a DataLoader draws from the global one otherwise
        )

    def read(self, loader: DataLoader) -> Iterator[ByteImages]:
        """Mini-batches of a loader, on the device and channels-last in memory.

        Raises:
            ValueError: a file that is no image, by its name.
        """
        for pixels in raise_returned(loader):
            yield pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)


def raise_returned(loader: Iterable[T | ValueError]) -> Iterator[T]:
    """Yield what a loader does, and raise the first error that it yields.

    What a worker raises gets the stacks of both processes into its message; what it returns stays one line.

    >>> list(raise_returned([1, 2]))
    [1, 2]
    """
    for item in loader:
        if isinstance(item, ValueError):
            raise item
        yield item


class _TransformedImages(torch.utils.data.Dataset):
    """Image files by request: a worker decodes and transforms them, each by the draws of its own seed."""

    def __init__(self, files: ImageFiles, transform: Callable) -> None:
        self.files, self.transform = files, transform

    def __getitem__(self, request: Request) -> Tensor | ValueError:
        indices, seeds = request
        # torchvision draws from the global generator, which is that of the whole program where there is no worker.
        with torch.random.fork_rng(devices=[]):
            try:
                return torch.stack([self._read(*pair) for pair in zip(indices.tolist(), seeds.tolist())])
            except ValueError as error:  # of which `raise_returned` is told
                return error

    def _read(self, index: int, seed: int) -> UInt8[Tensor, "size size 3"]:
        image = load_rgb(self.files.root / self.files.names[index])
        torch.default_generator.manual_seed(seed)
        return torch.from_numpy(np.array(self.transform(image)))


class StreamedBatches(Batches):
    """Mini-batches of image files, as those of `Batches` otherwise; not padded.

    Every image is a random part of its picture, 8 to 100 % of the area and 3:4 to 4:3 in shape, resized, and mirrored
    if `flip`: torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`, the published recipe on ImageNet.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        labels, generator = self.split.labels, self.augmentation_generator
        n, device = len(labels), labels.device
        order = self.take_shard(torch.randperm(n, generator=self.generator, device=device))
        seeds = self.take_shard(torch.randint(NUM_SEEDS, (n,), generator=generator, device=device))
        # The loader of the first epoch serves all, so that its workers are started once.
        loader, requests = self._loader
        requests[:] = zip(*(draws.cpu().numpy().reshape(-1, self.batch_size) for draws in (order, seeds)))
        for pixels, index in zip(self.split.images.read(loader), order.split(self.batch_size)):
            yield pixels.to(self.dtype).div_(255), labels[index]

    @cached_property
    def _loader(self) -> tuple[DataLoader, list[Request]]:
        """A loader of the training images, and the list of what it loads in an epoch."""
        from torchvision.transforms import v2

        files, requests = self.split.images, []
        crop, flip = v2.RandomResizedCrop(files.size), v2.RandomHorizontalFlip(0.5 * self.flip)
        return files.loader(requests, v2.Compose([crop, flip])), requests


class StreamedDataset(Dataset):
    """A data set of image files.

    Its mean and standard deviation are those published for ImageNet, whatever the images show (our choice):
    measuring them means reading every file, and a network needs only their order of magnitude.
    """

    moments = IMAGENET_MOMENTS
    batches_class = StreamedBatches


def build_streamed_dataset(
    root: Path, files: Files, class_names: tuple[str, ...], size: int, workers: int = 0
) -> StreamedDataset:
    """The data set of image files below `root`, with their labels, by split: train, val where there is one, test."""
    splits = {}
    for split_name, (paths, labels) in files.items():
        names = np.array([path.relative_to(root).as_posix() for path in paths])
        splits[split_name] = Split(ImageFiles(root, names, size, workers), torch.tensor(labels))
    train, validation, test = splits["train"], splits.get("val"), splits["test"]
    name = root.resolve().name
    return StreamedDataset(name, train, validation, test, class_names, batch_size=128, padding=0, flip=True)
