"""The whole recipe of MultiMix as one object, for anybody's model and training loop."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from mmlib._checks import check_logits, check_range, check_tensor, check_type
from mmlib._mixed_loss import binary_loss, is_integer, mixed_loss
from mmlib._typing import Bool, Float
from mmlib.losses import DenseMultiMixLoss, MultiMixBCELoss, MultiMixLoss
from mmlib.mixing import accumulation_dtype
from mmlib.sampling import check_alpha
from mmlib.transforms import draw_pairs, mix_pairs

Criterion = MultiMixLoss | DenseMultiMixLoss | MultiMixBCELoss


class MultiMixRecipe(nn.Module):
    """The recipe of MultiMix: a training loss of mixed embeddings on some mini-batches, of mixed images on the others.

    A coin decides for each mini-batch. With the given probability its embeddings are mixed, by the criterion;
    otherwise its images are, by mixup, and the loss is plain cross-entropy with the criterion's class weights, label
    smoothing, ignored index and reduction. The network never trains on clean examples. In evaluation mode the loss
    is plain cross-entropy of clean images. `MultiMixBCELoss` makes it binary cross-entropy throughout.

    Coin, λ and pairs come from a generator of the CPU, so that no step waits for a GPU; its state is part of
    `state_dict`. The criterion draws its mixtures from its own, which is not.

    With `reduction="none"` the loss is one number per mixture, (n,), where embeddings are mixed, and one per image,
    (m,), where images are and in evaluation mode. So with "sum" it is about n / m times as large on the former.

    Args:
        criterion: the loss of a mini-batch whose embeddings are mixed, plain or dense.
        probability: of mixing embeddings rather than images (published recipe).
        mixup_alpha: α of mixup's λ ~ Beta(α, α) (our choice).
        generator: a generator of the CPU; by default a new one, which torch's global generator seeds.

    Source: MultiMix (NeurIPS 2023), section 3: "following Manifold mixup", the inputs, images here, are mixed on the
    other mini-batches.

    >>> recipe = MultiMixRecipe(MultiMixLoss(num_mixtures=1000))
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> recipe(model, torch.rand(8, 1, 8, 8), torch.randint(10, (8,))).backward()

    The dense criterion needs the features before pooling and the head that classifies them:

    >>> backbone, head = nn.Conv2d(1, 16, 3), nn.Linear(16, 10)
    >>> model = nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    >>> recipe = MultiMixRecipe(DenseMultiMixLoss(num_mixtures=1000))
    >>> images, labels = torch.rand(8, 1, 8, 8), torch.randint(10, (8,))
    >>> recipe(model, images, labels, features=backbone, head=head).backward()
    """

    def __init__(
        self,
        criterion: Criterion,
        *,
        probability: float = 0.5,
        mixup_alpha: float = 1.0,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(criterion, Criterion):
            hint = "; compile the recipe instead" if hasattr(criterion, "_orig_mod") else ""
            got = f"got {type(criterion).__name__}{hint}"
            raise TypeError(f"criterion must be one of mmlib, such as MultiMixLoss, {got}")
        check_range(0, 1, probability=probability)
        check_alpha(mixup_alpha, "mixup_alpha", pair=False)
        check_type("generator", generator, Generator | None)
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))
        if generator.device.type != "cpu":
            raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
        self.criterion, self.probability, self.mixup_alpha = criterion, probability, mixup_alpha
        self.generator = generator

    def forward(
        self,
        model: Callable[[Tensor], Tensor],
        images: Float[Tensor, "m *axes"],
        targets: Tensor,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the loss of one mini-batch.

        The criterion's `mask`, `query` and `mixing_weights` do not pass through: mixed images have none of them.

        Args:
            model: returns the logits (m, c) of m images.
            images: the unmixed mini-batch.
            targets: class indices (m,) or distributions over classes (m, c), as the criterion takes them.
            features: for the dense criterion in training, returns the features before pooling of m images.
            head: for the dense criterion in training, the model's classifier.
        """
        dense = isinstance(self.criterion, DenseMultiMixLoss)
        given = [features is not None, head is not None]
        if any(given) if not dense else self.training and not all(given):
            takes = "both features and head" if dense else "neither features nor head"
            raise TypeError(f"{type(self.criterion).__name__} takes {takes}")
        targets = self._check_batch(images, targets)
        if not self.training:
            return self._reduce(self._plain_loss(model(images), targets), self._takes_part(targets))
        if torch.rand((), generator=self.generator, device="cpu").item() < self.probability:
            if features is None:
                return self.criterion(model(images), targets)
            return self.criterion(features(images), head, targets)
        return self._mixup_loss(model, images, targets)

    def _check_batch(self, images: Tensor, targets: Tensor) -> Tensor:
        """Check what mixing needs to know before the model has run; return the targets, if one-hot, as numbers.

        The dense criterion could take integers in two dimensions for classes per position.
        """
        mixes_images = self.training and self.probability < 1
        check_tensor("images", images, kind="floating-point" if mixes_images else "")
        check_tensor("targets", targets)
        if targets.ndim not in (1, 2) or len(targets) != len(images):
            m, got = len(images), tuple(targets.shape)
            raise ValueError(f"targets must have shape ({m},) or ({m}, c) for {m} images, got {got}")
        if not len(images):
            raise ValueError(f"images must have at least one example, got shape {tuple(images.shape)}")
        return targets.to(torch.get_default_dtype()) if is_integer(targets) and targets.ndim == 2 else targets

    def _mixup_loss(self, model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
        """Return λ H(y, p) + (1 - λ) H(y', p), where p is predicted for λ x + (1 - λ) x'."""
        partners, lam = draw_pairs(len(images), self.mixup_alpha, generator=self.generator, device=images.device)
        lam = images.new_full((len(images),), lam, dtype=accumulation_dtype(images.dtype))
        own = self._takes_part(targets)
        other = own[partners]
        lam = torch.where(own, torch.where(other, lam, 1), 0)  # an ignored example leaves the pair to the other
        logits = model(mix_pairs(images, partners, lam))
        losses = lam * self._plain_loss(logits, targets) + (1 - lam) * self._plain_loss(logits, targets[partners])
        return self._reduce(losses, own | other)

    def _takes_part(self, targets: Tensor) -> Bool[Tensor, " m"]:
        """Tell for each example whether it has a label, one that is not ignored."""
        if targets.ndim == 1 and not isinstance(self.criterion, MultiMixBCELoss):
            return targets != self.criterion.ignore_index
        return torch.ones(len(targets), dtype=torch.bool, device=targets.device)

    def _plain_loss(self, logits: Float[Tensor, "m c"], targets: Tensor) -> Float[Tensor, " m"]:
        """Return the loss of each example, by the criterion's conventions, in single precision at least."""
        check_logits(logits)
        terms = self.criterion._terms()._replace(reduction="none")
        if isinstance(self.criterion, MultiMixBCELoss):
            return binary_loss(logits, targets, None, terms)
        return mixed_loss(logits, targets, None, terms)

    def _reduce(self, losses: Float[Tensor, " m"], valid: Bool[Tensor, " m"]) -> Tensor:
        """Reduce as the criterion does; the mean is over what is not ignored, and 0 if there is nothing."""
        if self.criterion.reduction == "none":
            return losses
        total = losses.sum()
        return total if self.criterion.reduction == "sum" else total / valid.sum().clamp(min=1)

    def get_extra_state(self) -> Tensor:
        """Return the generator's state, which `state_dict` holds."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Set the generator's state, as `load_state_dict` does."""
        self.generator.set_state(state.cpu())

    def extra_repr(self) -> str:
        return f"probability={self.probability}, mixup_alpha={self.mixup_alpha}"
