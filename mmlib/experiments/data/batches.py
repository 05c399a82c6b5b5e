"""Mini-batches, drawn and augmented on the device."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._checks import check_int
from mmlib._typing import Int
from mmlib.experiments.data.split import Pixels, Split


@dataclass(eq=False, repr=False)
class Batches:
    """Mini-batches of a split that lives on its device as bytes; every iteration is one shuffled epoch.

    An image is shifted and mirrored by its own draws, all images of a mini-batch at once and on the device.
    The last, incomplete mini-batch is dropped, so that m is constant. Models normalise; this does not.

    Args:
        batch_size: m, reduced to the split's size where that is smaller.
        padding: black pixels added to each side before a crop of the original size at a random place.
        flip: mirror an image left to right with probability 1/2.
        generator: of the order; on the split's device. None uses torch's global one. An epoch takes all its draws
            when it starts, so the generators' states of that moment give the same epoch again.
        augmentation_generator: of crops and mirroring, likewise; None takes `generator` for them too.
        dtype: of the images.
        shard: (rank, world size): this process's part of every epoch in a distributed run.

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
    augmentation_generator: torch.Generator | None = None
    dtype: torch.dtype = torch.float32
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        check_int(1, batch_size=self.batch_size)
        check_int(padding=self.padding)
        if not len(self.split):
            raise ValueError("split has no images; batches take at least one")
        self.part, self.parts = self.shard
        self.batch_size = min(self.batch_size, len(self.split) // self.parts)

    def __len__(self) -> int:
        return len(self.split) // self.parts // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = self.split.images.permute(0, 2, 3, 1)
        count, device, augmentation = len(pixels), pixels.device, self.augmentation_generator or self.generator
        order = torch.randperm(count, generator=self.generator, device=device)
        top, left = torch.randint(2 * self.padding + 1, (2, count), generator=augmentation, device=device)
        mirrored = torch.randint(2, (count,), generator=augmentation, device=device).bool() & self.flip
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
