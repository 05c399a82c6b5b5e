"""Mini-batches, drawn and augmented on the device."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib._checks import check_int
from mmlib._typing import Int
from mmlib.experiments.data.split import Pixels, Split


class Batches:
    """Shuffled mini-batches of a split that lives on its device as bytes; each iteration is one epoch.

    Every image is shifted and mirrored by its own draws, all images of a mini-batch at once and on the device.
    The last, incomplete mini-batch is dropped, so that m is constant. Models normalise; this class does not.

    Args:
        batch_size: m, at most the images of the shard.
        padding: black pixels added to each side before a crop of the original size at a random place.
        flip: mirror an image left to right with probability 1/2.
        generator: source of the order, on the split's device. None takes torch's global generator. An epoch takes
            all its draws when it starts, so the generators' states at that moment give the same epoch again.
        augmentation_generator: source of the shifts and the mirroring. None takes them from `generator`.
        dtype: of the images.
        shard: (rank, world_size) of a distributed run. Every process takes an equal share of each epoch; the
            generators of all processes must be in the same state.

    Yields:
        Images in [0, 1], (m, channels, h, w), channels-last in memory, and labels, (m,).

    Raises:
        ValueError: a split with fewer images than a mini-batch or than processes, or a number that cannot be.

    >>> split = Split(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.zeros(10, dtype=torch.long))
    >>> [images.shape for images, labels in Batches(split, 4, padding=1, flip=True)]
    [torch.Size([4, 3, 8, 8]), torch.Size([4, 3, 8, 8])]
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        padding: int = 0,
        flip: bool = False,
        generator: torch.Generator | None = None,
        augmentation_generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        check_int(1, batch_size=batch_size)
        check_int(padding=padding)
        self.rank, self.world_size = shard
        self.shard_size = len(split) // self.world_size
        if not self.shard_size:
            raise ValueError(f"split must have an image for each of {self.world_size} processes, got {len(split)}")
        if batch_size > self.shard_size:
            most = f"{self.shard_size} training images" + " of each process" * (self.world_size > 1)
            raise ValueError(f"batch_size must be at most the {most}, got {batch_size}")
        self.split, self.batch_size, self.padding, self.flip, self.dtype = split, batch_size, padding, flip, dtype
        self.generator = generator
        self.augmentation_generator = generator if augmentation_generator is None else augmentation_generator

    def __len__(self) -> int:
        """Number of mini-batches in an epoch."""
        return self.shard_size // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = self.split.pixels
        n, device, generator = len(pixels), pixels.device, self.augmentation_generator
        # Every process draws for all images, alike, and takes its shard.
        order = self.take_shard(torch.randperm(n, generator=self.generator, device=device))
        offsets = torch.randint(2 * self.padding + 1, (2, n), generator=generator, device=device)
        top, left = map(self.take_shard, offsets)
        mirrored = self.take_shard(torch.randint(2, (n,), generator=generator, device=device).bool() & self.flip)
        for start in range(0, len(order), self.batch_size):
            batch = slice(start, start + self.batch_size)
            images = pixels.index_select(0, order[batch])
            if self.padding or self.flip:
                images = crop(images, self.padding, top[batch], left[batch], mirrored[batch])
            yield images.permute(0, 3, 1, 2).to(self.dtype).div_(255), self.split.labels[order[batch]]

    def take_shard(self, draws: Int[Tensor, " n"] | Tensor) -> Tensor:
        """This process's part of what was drawn for all images, cut to whole mini-batches."""
        return draws[self.rank :: self.world_size][: len(self) * self.batch_size]


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
    flat_index = rows[:, :, None] * padded.shape[2] + columns[:, None, :]
    return padded.view(-1, channels).index_select(0, flat_index.view(-1)).view(m, h, w, channels)
