"""Helpers of the tests: draws replayed from a method's generators, losses compared with their gradients, records."""

from pathlib import Path

import torch

from mmlib import DenseMultiMixLoss, MultiMixLoss, sample_mixing_weights
from mmlib.experiments.runs import RunRecord
from tests.reference import mixtures

M, C, N = 6, 3, 5  # examples, classes and mixtures
# Operations that a loss starts on a GPU, forward and backward, the dense one with its attention and head.
MOST_LAUNCHES = {MultiMixLoss: 32, DenseMultiMixLoss: 57}


def clone(generator):
    """Make another generator that draws the same numbers next."""
    return torch.Generator().set_state(generator.get_state())


def skip_coin(method):
    """Replay the draw that chooses between embeddings and inputs."""
    return torch.rand((), generator=method.cpu_generator).item()


def gradients(loss, classifier):
    """Differentiate a loss by all parameters of the classifier."""
    return torch.autograd.grad(loss, list(classifier.parameters()))


def assert_same(loss, expected, classifier):
    """Compare two losses, and their gradients by the classifier's parameters."""
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, classifier), gradients(expected, classifier))


def expected_mixup(method, images, targets, alpha):
    """Compute mixup's loss, one λ for all: λ x_i + (1 - λ) x_π(i), held against the targets mixed alike."""
    generator = clone(method.cpu_generator)
    lam = sample_mixing_weights(1, 2, alpha, generator=generator, dtype=torch.double)[0, 0]
    permutation = torch.randperm(M, generator=generator).tolist()
    mixed = torch.stack([lam * images[i] + (1 - lam) * images[j] for i, j in enumerate(permutation)])
    mixed_targets = [lam * targets[i] + (1 - lam) * targets[j] for i, j in enumerate(permutation)]
    logits = method.classifier(mixed)
    return sum(mixtures.cross_entropy(row, target) for row, target in zip(logits, mixed_targets)) / M


def perturb(classifier):
    """Change every parameter a little."""
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.mul_(1.1).add_(0.01)


def assert_same_state(state, expected):
    """Compare the states of two methods to the last bit, and the kind of device that their generators draw for."""
    kinds, tensors = [], []
    for given in (state, expected):
        extra = dict(given["_extra_state"])
        kinds.append(extra.pop("device"))
        tensors.append(dict(given) | {"_extra_state": extra})
    assert kinds[0] == kinds[1]
    torch.testing.assert_close(*tensors, rtol=0, atol=0)


def make_record(variant, seed=0, *, config=None, metrics=None, environment=None):
    """Make the record of a run on digits without a history and files."""
    return RunRecord(
        dataset="digits",
        model="preactresnet-small",
        variant=variant,
        seed=seed,
        config=config or {},
        metrics=metrics or {},
        history=[],
        environment=environment or {},
        embeddings_path=Path(),
        weights_path=Path(),
    )
