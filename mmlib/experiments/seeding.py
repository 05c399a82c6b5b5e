"""Independent random streams from the one seed of a run."""

from typing import NamedTuple

import numpy as np


class Seeds(NamedTuple):
    """Seeds of a run's independent random streams, each for a generator of its own.

    Args:
        weights: of the network's initial weights.
        order: of the training images' order in every epoch.
        augmentation: of their crops and mirrorings.
        method: of all that the training method draws; the only one that differs between the processes of a run.
    """

    weights: int
    order: int
    augmentation: int
    method: int


def spawn_seeds(seed: int, rank: int = 0) -> Seeds:
    """Derive the seeds of all random streams of one process of a run.

    They are children of one `numpy.random.SeedSequence`, so streams share nothing, neither within a run nor between
    runs, and every bit of `seed` counts.

    Args:
        seed: of the run, an integer >= 0.
        rank: of the process in a distributed run.

    >>> spawn_seeds(0).order == spawn_seeds(0, rank=1).order, spawn_seeds(0).method == spawn_seeds(0, rank=1).method
    (True, False)
    """
    weights, order, augmentation, method = np.random.SeedSequence(seed).spawn(4)
    of_rank = method.spawn(rank + 1)[rank]
    return Seeds(*(_torch_seed(sequence) for sequence in (weights, order, augmentation, of_rank)))


def _torch_seed(sequence: np.random.SeedSequence) -> int:
    """An integer below 2**63, which every generator of torch takes; that of the CPU heeds the lower 32 bits alone."""
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
