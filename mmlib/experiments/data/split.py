"""A split: images as bytes, with their labels."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mmlib._typing import Float, Int, UInt8

Pixels = UInt8[Tensor, "m h w channels"]


@runtime_checkable
class ImageStore(Protocol):
    """Images as bytes, (n, channels, h, w): a tensor, or `streaming.ImageFiles`, which are read when needed."""

    @property
    def shape(self) -> torch.Size:
        """(n, channels, h, w)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor, /) -> "ImageStore": ...

    def to(self, device: torch.device | str, /) -> "ImageStore":
        """The same images, their mini-batches on `device`."""
        ...

    def split(self, batch_size: int, /) -> Iterable[Tensor]:
        """The images in order, as tensors of `batch_size` at a time."""
        ...


@dataclass(frozen=True)
class Split:
    """A set of images, their classes and, for the shapes drawn here, their boxes.

    Args:
        images: 0..255. A loaded tensor is NHWC in memory, so that its mini-batches are channels-last without a copy.
        labels: class indices.
        boxes: x0, y0, x1, y1 in pixels; x1 and y1 are exclusive.

    Raises:
        ValueError: a tensor of images that are not bytes, or another number of labels or boxes than of images.
    """

    images: ImageStore
    labels: Int[Tensor, " n"]
    boxes: Float[Tensor, "n 4"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor) and (self.images.dtype != torch.uint8 or self.images.ndim != 4):
            got = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise ValueError(f"images must be uint8 of shape (n, channels, h, w), got {got}")
        for name, rows in (("labels", self.labels), ("boxes", self.boxes)):
            if rows is not None and len(rows) != len(self.images):
                raise ValueError(f"{name} must have a row for each of {len(self.images)} images, got {len(rows)}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> Pixels:
        """The images of a split in memory, (n, h, w, channels).

        Raises:
            TypeError: the images are files.
        """
        if not isinstance(self.images, Tensor):
            raise TypeError(f"images must be a tensor, got {type(self.images).__name__}")
        return self.images.permute(0, 2, 3, 1)

    def __getitem__(self, index: slice | Tensor) -> "Split":
        """The examples at `index`, as a split."""
        boxes = None if self.boxes is None else self.boxes[index]
        return Split(self.images[index], self.labels[index], boxes)

    def to(self, device: torch.device | str) -> "Split":
        """The same split on `device`."""
        boxes = None if self.boxes is None else self.boxes.to(device)
        return Split(self.images.to(device), self.labels.to(device), boxes)

    def first_per_class(self, count: int) -> "Split":
        """The first `count` images of every class, class by class: a small split, balanced and always the same."""
        return self[torch.cat([(self.labels == k).nonzero().flatten()[:count] for k in self.labels.unique()])]

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any pixel, label or box, and not with device or memory layout.

        Of files it follows names and lengths (`ImageFiles.listing`).
        """
        images = self.pixels if isinstance(self.images, Tensor) else self.images.listing()
        digest = hashlib.sha256()
        for array in (images, self.labels.long(), self.boxes):
            if array is not None:
                digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
                digest.update(array.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]
