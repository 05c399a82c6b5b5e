"""Two calls on the same tensors, one ours and one a peer's, and what holds that they compute the same."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from mmlib import transforms
from mmlib.experiments import models
from mmlib.experiments.methods import METHODS, Method, cutmix, mixup, puzzlemix, zeta_mixup

CLASSES = 100
ALWAYS = {"cutmix": 1.0, "alignmixup": 1.0, "multimix": 1.0}  # the probability of methods that do not always mix
SAME, OTHERWISE, NO_MIXING = "same tensors", "solved otherwise", "without mixing"

Call = Callable[[Tensor, Tensor], object]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Comparison(NamedTuple):
    """What is compared, the two calls, and the inputs of both."""

    method: str
    peer: str
    what: str
    ours: Call
    theirs: Call
    images: Tensor
    labels: Tensor
    note: str = SAME


class Batch:
    """Random images and labels, and the small network that steps are taken with."""

    def __init__(self, size: int, count: int) -> None:
        torch.manual_seed(0)
        self.size, self.images, self.labels = size, torch.rand(count, 3, size, size), torch.randint(CLASSES, (count,))
        dataset = SimpleNamespace(channels=3, size=size, classes=CLASSES, moments=((0.5,) * 3, (0.25,) * 3))
        self.classifier = models.build("preactresnet-small", dataset)
        # A small rate, so that hundreds of steps on noise leave the network as it is: it costs what any rate costs.
        self.optimizer = torch.optim.SGD(self.classifier.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def method(self, name: str, mix_batch: Mixing | None = None) -> Method:
        """Make a training method, its mixing call replaced by a peer's if one is given."""
        made = METHODS[name](self.classifier, **({"probability": ALWAYS[name]} if name in ALWAYS else {}))
        if mix_batch is not None:
            made.mix_batch = mix_batch
        return made

    def step(self, method: Call) -> Call:
        """Make a training step of a loss."""

        def take(images: Tensor, labels: Tensor) -> None:
            self.optimizer.zero_grad()
            method(images, labels).backward()
            self.optimizer.step()

        return take

    def compare(
        self, name: str, peer: str, mixing: tuple[Call, Call], losses: tuple[Call, Call], note: str = SAME
    ) -> list[Comparison]:
        """Compare a mixing call and a step, each ours and theirs."""
        inputs, steps = (self.images, self.labels), map(self.step, losses)
        return [
            Comparison(name, peer, f"{what}, {self.size} x {self.size}", *calls, *inputs, note)
            for what, calls in (("mixing call", mixing), ("step", steps))
        ]


@contextmanager
def fixed(**results: object) -> Iterator[None]:
    """Let functions of these names return what is given, in every module here that calls one."""
    with ExitStack() as stack:
        for name, result in results.items():
            for module in (transforms, mixup, cutmix, zeta_mixup, puzzlemix):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, return_value=result))
        yield


def check_same(ours: Mixing, theirs: Mixing, images: Tensor, drawn: Callable[..., dict]) -> None:
    """Raise if ours, with what theirs has drawn, returns other tensors.

    Every example has a class of its own, so the targets are the weights of the examples in each mixture.
    """
    labels = torch.arange(min(CLASSES, len(images)))
    images = images[: len(labels)]
    expected, targets = theirs(images.clone(), labels)
    with fixed(**drawn(images, expected, targets[:, : len(labels)])):
        mixed = ours(images.clone(), labels)
    torch.testing.assert_close(mixed, (expected, targets), rtol=1e-4, atol=1e-5)


def drawn_pairs(images: Tensor, mixed: Tensor, weights: Tensor) -> dict:
    """Recover partners, λ and box from the weights and the pixels that have changed."""
    own = weights.diagonal()
    others, partners = (weights - own.diag()).max(dim=1)
    partners = torch.where(others > 0, partners, torch.arange(len(own)))  # some permutations leave examples in place
    changed = (mixed != images).any(dim=0).any(dim=0)
    edges = [along.nonzero().flatten().tolist() or [0, -1] for along in (changed.any(1), changed.any(0))]
    box = tuple(slice(places[0], places[-1] + 1) for places in edges)
    return {"draw_pairs": (partners, own.min().item()), "cutmix_box": box}


def drawn_weights(_images: Tensor, _mixed: Tensor, weights: Tensor) -> dict:
    """Take ζ-mixup's weights as they are, if they are those of its ranks."""
    by_rank = transforms.zeta_weights(len(weights)).sort(dim=1).values
    torch.testing.assert_close(weights.sort(dim=1).values, by_rank, rtol=1e-4, atol=1e-7)
    return {"zeta_weights": weights}
