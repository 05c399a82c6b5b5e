"""Batch transforms that mix images: mixup, CutMix and ζ-mixup, and the functions that they consist of."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from mmlib._checks import can_read, check_index_range, check_int, check_range, check_tensor, check_values
from mmlib._typing import Device, Float, Int
from mmlib.mixing import accumulation_dtype, mix
from mmlib.sampling import check_alpha, resolve_devices, sample_mixing_weights


def draw_pairs(
    num_examples: int, alpha: float = 1.0, *, generator: Generator | None = None, device: Device | None = None
) -> tuple[Int[Tensor, " m"], float]:
    """Draw a partner for every example, and the λ ~ Beta(α, α) that all pairs share.

    Both are drawn on the CPU, so that no step waits for a GPU to learn its λ.

    Args:
        num_examples: m, the examples of the mini-batch.
        alpha: α of the Beta distribution; 1 is uniform.
        generator: a generator of the CPU; None uses torch's global one.
        device: where the partners are needed; by default the CPU.

    Returns:
        The partners' indices, a random permutation of the mini-batch, and λ, the weight of the example itself.

    Source: Zhang et al., mixup (ICLR 2018).

    >>> partners, lam = draw_pairs(4, generator=torch.Generator().manual_seed(0))
    >>> sorted(partners.tolist()), 0 <= lam <= 1
    ([0, 1, 2, 3], True)
    """
    check_int(1, num_examples=num_examples)
    check_alpha(alpha, pair=False)
    # Beta(α, α) is the Dirichlet distribution of two examples.
    lam = sample_mixing_weights(1, 2, alpha, generator=generator, device="cpu", dtype=torch.float64)[0, 0].item()
    partners = torch.randperm(num_examples, generator=generator, device="cpu")
    return partners.to("cpu" if device is None else device, non_blocking=True), lam


def mix_pairs(
    values: Float[Tensor, "m *axes"], partners: Int[Tensor, " m"], lam: float | Float[Tensor, " m"]
) -> Float[Tensor, "m *axes"]:
    """Interpolate every example with its partner: λ v + (1 - λ) v', where v' is the partner's value.

    Half precision is interpolated in single precision, so that images and labels of different types share one λ.

    Args:
        values: of the examples, for example images or distributions over classes.
        partners: the index of every example's partner.
        lam: λ, one number for all pairs or one for each.

    Returns:
        Mixed values, of the type of `values`.

    >>> mix_pairs(torch.tensor([0.0, 4.0]), torch.tensor([1, 0]), 0.75)
    tensor([1., 3.])
    """
    check_tensor("values", values, kind="floating-point")
    check_tensor("partners", partners, (len(values),), "integer")
    dtype = accumulation_dtype(values.dtype)
    # As a number λ would be part of the graph under `torch.compile`, which would compile every step anew.
    lam = (lam * torch.ones((), dtype=dtype, device=values.device)).to(dtype)
    check_values("lam", lam, high=1)
    if lam.ndim:
        check_tensor("lam", lam, (len(values),))
        lam = lam.reshape(-1, *[1] * (values.ndim - 1))
    return torch.lerp(values[partners].to(dtype), values.to(dtype), lam).to(values.dtype)


def cutmix_box(size: tuple[int, int], lam: float, centre: tuple[int, int]) -> tuple[slice, slice]:
    """Return the box that CutMix pastes: the share 1 - λ of the image, clipped at the border.

    Half a side is rounded down to whole pixels, as in the released code and in torchvision, to the bit. On small
    images that matters: at 8×8 pixels, with uniform λ and centre, rounding loses 27 % of the clipped area, and 6 % of
    the boxes are empty. timm rounds the whole side down instead, which also gives odd sides and loses 12 %.

    Args:
        size: height and width of the image, in pixels.
        lam: λ, the share of the image that is kept.
        centre: row and column of the box's centre.

    Returns:
        The rows and the columns of the box.

    Source: Yun et al., CutMix (ICCV 2019).

    >>> cutmix_box((32, 32), 0.75, (20, 2))
    (slice(12, 28, None), slice(0, 10, None))
    """
    check_range(high=1, lam=lam)

    def interval(side: int, middle: int) -> slice:
        half = int(0.5 * math.sqrt(1 - lam) * side)
        return slice(max(0, middle - half), min(side, middle + half))

    return interval(size[0], centre[0]), interval(size[1], centre[1])


def zeta_weights(
    num_examples: int,
    gamma: float = 2.8,
    *,
    generator: Generator | None = None,
    device: Device | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "m m"]:
    """Draw mixing weights proportional to rank^-γ, where every row ranks all examples in random order, its own first.

    Args:
        num_examples: m, the examples of the mini-batch and the mixtures of them.
        gamma: γ; 0 weighs all examples alike, above 1.72865 the first outweighs all others together.
        generator, device: as in `sample_mixing_weights`.
        dtype: by default torch's default.

    Returns:
        Mixing weights, one mixture a row, every row summing to 1, the largest of each on the diagonal.

    Source: Abhishek et al., ζ-mixup (Journal of Big Data 2024). An example is first in its own mixture in their
    released code.

    >>> zeta_weights(3, 2.0, generator=torch.Generator().manual_seed(0)).diagonal()
    tensor([0.7347, 0.7347, 0.7347])
    """
    check_int(1, num_examples=num_examples)
    check_range(gamma=gamma)
    source, target = resolve_devices(generator, device)
    keys = torch.rand(num_examples, num_examples, generator=generator, device=source).fill_diagonal_(-1).to(target)
    ranks = torch.arange(1, num_examples + 1, device=target, dtype=dtype or torch.get_default_dtype())
    by_rank = ranks**-gamma
    by_rank = (by_rank / by_rank.sum()).expand(num_examples, num_examples)
    return torch.empty_like(by_rank).scatter_(1, keys.argsort(dim=1), by_rank)


class _BatchTransform(nn.Module):
    """A transform of mini-batches that finds images and labels in a sample and says in `mix_batch` how to mix them."""

    def __init__(
        self, num_classes: int | None, labels_getter: str | Callable[[Any], Tensor], generator: Generator | None
    ) -> None:
        super().__init__()
        if num_classes is not None:
            check_int(1, num_classes=num_classes)
        if labels_getter != "default" and not callable(labels_getter):
            raise TypeError(f"labels_getter must be 'default' or a callable, got {labels_getter!r}")
        self.num_classes, self.labels_getter, self.generator = num_classes, labels_getter, generator

    def forward(self, *inputs: Any) -> Any:
        sample = inputs[0] if len(inputs) == 1 else inputs
        labels = find_labels(sample) if isinstance(self.labels_getter, str) else self.labels_getter(sample)
        leaves, structure = tree_flatten(sample)
        at_labels = next((at for at, leaf in enumerate(leaves) if leaf is labels), None)
        tensors = {at: x for at, x in enumerate(leaves) if isinstance(x, Tensor) and x is not labels}
        at_images = next((at for at, x in tensors.items() if x.ndim > 2), next(iter(tensors), None))
        if at_labels is None and not isinstance(self.labels_getter, str):
            raise TypeError("labels_getter must return a tensor that the sample holds, got another object")
        if at_labels is None or at_images is None:
            raise TypeError(f"a sample must hold a tensor of images and one of labels, got {type(sample).__name__}")
        images, targets = leaves[at_images], self.to_distributions(labels)
        if images.ndim < 3 or len(images) != len(targets):
            shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"images and labels must be a batch of equal length, got shapes {shapes}")
        mixed, targets = self.mix_batch(images, targets)
        leaves[at_images], leaves[at_labels] = mixed.as_subclass(type(images)), targets
        return tree_unflatten(leaves, structure)

    def to_distributions(self, labels: Tensor) -> Float[Tensor, "m c"]:
        """Turn labels, class indices (m,) or distributions (m, c), into distributions."""
        if labels.ndim == 1 and not labels.is_floating_point():
            if self.num_classes is None:
                raise ValueError("num_classes must be given where labels are class indices, got None")
            if len(labels) and can_read(labels):
                check_index_range("labels", labels, self.num_classes, "classes")
            return F.one_hot(labels.long(), self.num_classes).to(torch.get_default_dtype())
        if labels.ndim != 2 or self.num_classes not in (None, labels.shape[1]):
            takes = f"(m,) integers or (m, {self.num_classes or 'c'})"
            raise ValueError(f"labels must be {takes}, got {labels.dtype} of shape {tuple(labels.shape)}")
        return labels if labels.is_floating_point() else labels.to(torch.get_default_dtype())

    def mix_batch(self, images: Tensor, targets: Float[Tensor, "m c"]) -> tuple[Tensor, Float[Tensor, "m c"]]:
        """Mix images and their distributions over classes."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}"


def find_labels(sample: Any) -> Tensor:
    """Find the labels of a sample where torchvision's transforms look for them.

    Args:
        sample: images and labels; images and a mapping; or a mapping. In a mapping labels have the key `labels`, or
            the first whose name contains `label`, upper case or lower.

    Raises:
        TypeError: no labels are there.

    >>> find_labels({"image": torch.zeros(2, 3, 8, 8), "Label": torch.tensor([1, 0])})
    tensor([1, 0])
    """
    found = sample[1] if isinstance(sample, Sequence) and len(sample) > 1 else sample
    if isinstance(found, Mapping):
        keys = [key for key in found if isinstance(key, str) and "label" in key.lower()]
        keys = [key for key in keys if key.lower() == "labels"] or keys
        found = found[keys[0]] if keys else None
    if not isinstance(found, Tensor) or found is sample:
        raise TypeError(f"labels must be a sample's second item or under its key 'labels', got {type(sample).__name__}")
    return found


class Mixup(_BatchTransform):
    """Mixup of a mini-batch: every image is mixed with another, one λ ~ Beta(α, α) for all.

    It is called as torchvision's `v2.MixUp` is. Partners are a random permutation here, so that the mini-batch need
    not be shuffled; λ is not rounded where images are of half precision.

    Args:
        alpha: α of the Beta distribution.
        num_classes: c; it is needed where labels are class indices.
        labels_getter: a function from the sample to its labels; the default takes the second item of a pair, or what
            a mapping has under `labels`. The first other tensor is the images; all else passes through.
        generator: a generator of the CPU; None uses torch's global one.

    Returns:
        The sample with images mixed and labels as distributions over classes, (m, c).

    Source: Zhang et al., mixup (ICLR 2018).

    >>> images, targets = Mixup(num_classes=10)(torch.rand(4, 3, 8, 8), torch.tensor([3, 1, 4, 1]))
    >>> targets.shape, bool(torch.isclose(targets.sum(), torch.tensor(4.0)))
    (torch.Size([4, 10]), True)
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        num_classes: int | None = None,
        labels_getter: str | Callable[[Any], Tensor] = "default",
        generator: Generator | None = None,
    ) -> None:
        super().__init__(num_classes, labels_getter, generator)
        check_alpha(alpha, pair=False)
        self.alpha = alpha

    def mix_batch(self, images: Tensor, targets: Float[Tensor, "m c"]) -> tuple[Tensor, Float[Tensor, "m c"]]:
        """Mix images, and their distributions over classes by the same λ."""
        check_tensor("images", images, kind="floating-point")
        partners, lam = draw_pairs(len(images), self.alpha, generator=self.generator, device=images.device)
        return mix_pairs(images, partners, lam), mix_pairs(targets, partners.to(targets.device), lam)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, {super().extra_repr()}"


class CutMix(Mixup):
    """CutMix of a mini-batch: a box, the same in all images, is replaced by the partner's.

    It is called as torchvision's `v2.CutMix` is, and rounds the box as that does (see `cutmix_box`, also for what
    this means on small images). The label keeps the share of the pixels that the image keeps.

    Args:
        alpha: of λ ~ Beta(α, α); the box has the area 1 - λ before the border clips it.
        num_classes, labels_getter, generator: as in `Mixup`.

    Returns:
        The sample with images mixed and labels as distributions over classes, (m, c).

    Source: Yun et al., CutMix (ICCV 2019).

    >>> images, targets = CutMix(num_classes=10)(torch.rand(4, 3, 8, 8), torch.tensor([3, 1, 4, 1]))
    >>> images.shape, targets.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 10]))
    """

    def mix_batch(self, images: Tensor, targets: Float[Tensor, "m c"]) -> tuple[Tensor, Float[Tensor, "m c"]]:
        """Paste the partners' box, and mix distributions over classes by the share of the pixels."""
        partners, lam = draw_pairs(len(images), self.alpha, generator=self.generator, device=images.device)
        height, width = images.shape[-2:]
        centre = [int(torch.randint(side, (), generator=self.generator, device="cpu")) for side in (height, width)]
        rows, columns = cutmix_box((height, width), lam, (centre[0], centre[1]))
        mixed = images.clone()
        mixed[..., rows, columns] = images[..., rows, columns][partners]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return mixed, mix_pairs(targets, partners.to(targets.device), 1 - pasted)


class ZetaMixup(_BatchTransform):
    """ζ-mixup of a mini-batch: as many mixtures as examples, each of all images, with weights that fall as rank^-γ.

    Args:
        gamma: γ; above 1.72865 the first rank outweighs all others together, however many.
        num_classes, labels_getter: as in `Mixup`.
        generator: where it lives the weights are drawn; None uses the global one of the images' device.

    Returns:
        The sample with images mixed and labels as distributions over classes, (m, c).

    Source: Abhishek et al., ζ-mixup (Journal of Big Data 2024); γ = 2.8 is their recipe.

    >>> images, targets = ZetaMixup(num_classes=10)(torch.rand(4, 3, 8, 8), torch.tensor([3, 1, 4, 1]))
    >>> images.shape, targets.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        *,
        gamma: float = 2.8,
        num_classes: int | None = None,
        labels_getter: str | Callable[[Any], Tensor] = "default",
        generator: Generator | None = None,
    ) -> None:
        super().__init__(num_classes, labels_getter, generator)
        check_range(gamma=gamma)
        self.gamma = gamma

    def mix_batch(self, images: Tensor, targets: Float[Tensor, "m c"]) -> tuple[Tensor, Float[Tensor, "m c"]]:
        """Mix images, and their distributions over classes by the same weights."""
        check_tensor("images", images, kind="floating-point")
        device = images.device if self.generator is None else self.generator.device
        dtype = accumulation_dtype(torch.promote_types(images.dtype, targets.dtype))
        weights = zeta_weights(len(images), self.gamma, generator=self.generator, device=device, dtype=dtype)
        weights = weights.to(images.device, non_blocking=True)
        mixed = mix(weights, images.to(dtype)).to(images.dtype)
        return mixed, mix(weights.to(targets.device), targets.to(dtype)).to(targets.dtype)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, {super().extra_repr()}"
