"""Method: the classifier, the random generators and the loss of a mini-batch."""

import inspect

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib._checks import check_int
from mmlib._typing import Float, Images, Labels, Targets
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.mixing import accumulation_dtype


class Method(nn.Module):
    """Training method around a classifier: `method(images, labels)` is the loss of one mini-batch.

    The optimiser takes `classifier.parameters()`. Images are (m, channels, size, size) in [0, 1], labels are (m,)
    integers of any type. A method that mixes images overrides `mix_batch`; any other method overrides
    `compute_loss`.

    Two generators, independent of each other, are the only sources of randomness. Both are part of the state, so a
    run that resumes from a checkpoint draws the numbers that it would have drawn without the stop.

    Args:
        classifier: the network to train.
        seed: seed of all draws of the method.
    """

    def __init__(self, classifier: ImageClassifier, *, seed: int = 0) -> None:
        super().__init__()
        check_int(seed=seed)
        self.classifier = classifier
        host, device = np.random.SeedSequence(seed).spawn(2)
        # Draws that decide the course of a step (which branch, which λ) are made on the host: no wait for the device.
        self.cpu_generator = torch.Generator("cpu").manual_seed(int(host.generate_state(1, np.uint64)[0]))
        self._device_seed = int(device.generate_state(1, np.uint64)[0])
        self._generator: torch.Generator | None = None

    @property
    def generator(self) -> torch.Generator:
        """Generator on the classifier's device; on a device to which the classifier moves, it starts afresh."""
        device = self.classifier.head.weight.device
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self._device_seed)
        return self._generator

    def forward(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        return self.compute_loss(images, labels.long())

    def compute_loss(self, images: Images, labels: Labels) -> Float[Tensor, ""]:
        """Cross-entropy of the mixed mini-batch."""
        mixed, targets = self.mix_batch(images, labels)
        return cross_entropy(self.classifier(mixed), targets)

    def mix_batch(self, images: Images, labels: Labels) -> tuple[Images, Targets | Labels]:
        """Images that the classifier sees, and the targets of its predictions."""
        return images, labels

    def on_step_end(self) -> None:
        """Hook called after each optimiser step, e.g. to update a teacher."""

    def flip_coin(self, probability: float) -> bool:
        """True with the given probability."""
        return torch.rand((), generator=self.cpu_generator, device="cpu").item() < probability

    def one_hot(self, labels: Labels) -> Targets:
        """Labels as distributions over classes, in single precision at least."""
        head = self.classifier.head
        return F.one_hot(labels.long(), head.out_features).to(accumulation_dtype(head.weight.dtype))

    def get_extra_state(self) -> dict[str, Tensor | str]:
        generator = self.generator
        return {
            "cpu_generator": self.cpu_generator.get_state(),
            "generator": generator.get_state(),
            "device": generator.device.type,
        }

    def set_extra_state(self, state: dict[str, Tensor | str]) -> None:
        device = self.generator.device.type
        if state["device"] != device:
            raise ValueError(
                f"the state's generator must be of a {device} device, got one of a {state['device']} device"
            )
        self.cpu_generator.set_state(state["cpu_generator"].cpu())
        self.generator.set_state(state["generator"].cpu())


def cross_entropy(logits: Float[Tensor, "n c"], targets: Targets | Labels) -> Float[Tensor, ""]:
    """Mean cross-entropy, computed in single precision at least."""
    return F.cross_entropy(logits.to(accumulation_dtype(logits.dtype)), targets)


def is_on_cpu(tensor: Tensor) -> bool:
    """Whether the host reads a tensor's values without waiting for a device."""
    return tensor.device.type == "cpu"


def option_names(method: type[Method]) -> set[str]:
    """Names of the keyword arguments that a method takes, the seed excepted.

    >>> from mmlib.experiments.methods import METHODS
    >>> sorted(option_names(METHODS["cutmix"]))
    ['alpha', 'probability']
    """
    parameters = inspect.signature(method).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY} - {"seed"}
