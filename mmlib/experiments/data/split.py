"""A split: images as bytes, with their labels."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlib._typing import Float, Int, UInt8

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
