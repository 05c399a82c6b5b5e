"""What every method is: a module that holds the classifier and its random generators, and returns a loss."""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._typing import Float, Images, Labels, Targets


class Method(nn.Module):
    """A loss around a classifier: `objective(images, labels)` is that of one mini-batch.

    The optimiser takes `classifier.parameters()`. `images` are (m, channels, size, size) in [0, 1], `labels` (m,).
    A method that mixes images says how in `mix`; one that mixes anything else has a `forward` of its own.

    Generators are part of its state, so that a run resumed from a checkpoint draws what it would have drawn.

    Args:
        classifier: already on the device where it is trained.
        seed: of everything the method draws.
    """

    def __init__(self, classifier: nn.Module, *, seed: int = 0) -> None:
        super().__init__()
        self.classifier = classifier
        # What decides the course of a step (which method, which λ) is drawn on the host: no waiting for the device.
        self.cpu_generator = torch.Generator().manual_seed(seed)
        device = next(classifier.parameters()).device
        of_device = int(torch.randint(2**62, (), generator=self.cpu_generator))
        self.generator = torch.Generator(device).manual_seed(of_device)

    def forward(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        mixed, targets = self.mix(images, labels)
        return F.cross_entropy(self.classifier(mixed), targets)

    def mix(self, images: Images, labels: Labels) -> tuple[Images, Targets | Labels]:
        """What the classifier is shown, and what its predictions are held against."""
        return images, labels

    def on_step_end(self) -> None:
        """What follows the optimiser's step; a teacher moves here."""

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return torch.rand((), generator=self.cpu_generator).item() < probability

    def one_hot(self, labels: Labels) -> Targets:
        """Labels as distributions over classes."""
        head = self.classifier.head
        return F.one_hot(labels, head.out_features).to(head.weight.dtype)

    def get_extra_state(self) -> dict[str, Tensor]:
        return {"cpu_generator": self.cpu_generator.get_state(), "generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.cpu_generator.set_state(state["cpu_generator"].cpu())
        self.generator.set_state(state["generator"].cpu())


def option_names(method: type[Method]) -> set[str]:
    """The keyword arguments that a method takes, the seed excepted.

    >>> from mmlib.experiments.methods import METHODS
    >>> sorted(option_names(METHODS["mixup"]))
    ['alpha']
    """
    signatures = [inspect.signature(parent.__init__) for parent in method.__mro__ if issubclass(parent, Method)]
    parameters = [p for signature in signatures for p in signature.parameters.values()]
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"seed"}
