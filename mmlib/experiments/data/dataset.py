"""A data set: its splits, and how it is trained on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from mmlib.experiments.data.batches import Batches
from mmlib.experiments.data.split import Split


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test splits, with the mini-batch size and the augmentation to train with.

    Args:
        name: a word without a path, fit for a folder's name.
        validation: None where the whole train set is trained on.
        batch_size, padding, flip: as in `Batches`.

    Raises:
        ValueError: an empty split, images that are not square or differ in shape between splits, or labels
            without a class name.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    batch_size: int
    padding: int
    flip: bool

    batches_class: ClassVar[type[Batches]] = Batches

    def __post_init__(self) -> None:
        _, height, width = shape = tuple(self.train.images.shape[1:])
        if height != width:
            raise ValueError(f"{self.name}: images must be square, got {height} x {width} pixels")
        for name, split in self.splits().items():
            if not len(split):
                raise ValueError(f"{self.name}: the {name} split must have images, got none")
            if (got := tuple(split.images.shape[1:])) != shape:
                raise ValueError(f"{self.name}: {name} images must have the shape of train's, {shape}, got {got}")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.classes:
                wanted = f"from 0 to {self.classes - 1} for {self.classes} class names"
                raise ValueError(f"{self.name}: {name} labels must be {wanted}, got {low} to {high}")

    def splits(self) -> dict[str, Split]:
        """The splits of this data set by name, without a validation split where there is none."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def classes(self) -> int:
        """Number of classes, c."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train.images.shape[1]

    @property
    def size(self) -> int:
        """Pixels on a side."""
        return self.train.images.shape[2]

    @cached_property
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the train images' pixels in [0, 1], per channel.

        A channel with one value has the standard deviation 1, so that normalising divides by no zero.
        """
        # From counts of the 256 values: exact, so every machine gets the same digits.
        planes = self.train.pixels.unbind(dim=3)
        counts = torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in planes]).double().cpu()
        values = torch.arange(256, dtype=torch.double) / 255
        fractions = counts / counts.sum(dim=1, keepdim=True)
        mean = fractions @ values
        std = (fractions @ values.square() - mean.square()).clamp(min=0).sqrt()
        std = std.where((fractions < 1).all(dim=1), 1.0)
        return tuple(mean.tolist()), tuple(std.tolist())

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of all splits' arrays; two runs with the same ones saw the same data."""
        lines = [f"{name} {split.fingerprint()}" for name, split in self.splits().items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def batches(
        self,
        device: torch.device | str,
        batch_size: int | None = None,
        *,
        generator: torch.Generator | None = None,
        augmentation_generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        shard: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Mini-batches of the train split on `device`, augmented as this data set asks for.

        Args:
            batch_size: m; None takes the data set's, or all images of the shard where they are fewer.
            generator, augmentation_generator, dtype, shard: as in `Batches`.
        """
        own = max(1, min(self.batch_size, len(self.train) // shard[1]))
        return self.batches_class(
            self.train.to(device),
            own if batch_size is None else batch_size,
            padding=self.padding,
            flip=self.flip,
            generator=generator,
            augmentation_generator=augmentation_generator,
            dtype=dtype,
            shard=shard,
        )
