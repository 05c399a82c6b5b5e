"""The random streams of a run: independent of each other, of other runs' and of other processes'."""

import itertools

import numpy as np
import torch

from mmlib.experiments.seeding import spawn_seeds


def test_streams_are_children_of_one_seed_sequence():
    parent = np.random.SeedSequence(7)
    children = [np.random.SeedSequence(7, spawn_key=(k,)) for k in range(3)]
    children.append(np.random.SeedSequence(7, spawn_key=(3, 2)))  # the method's on rank 2
    assert [child.entropy for child in children] == [parent.entropy] * 4
    expected = tuple(int(child.generate_state(1, np.uint64)[0]) // 2 for child in children)
    assert spawn_seeds(7, rank=2) == expected


def test_no_two_streams_draw_the_same_numbers():
    """Not those of one seed, of seeds that torch's CPU generator takes for one, nor of the ranks of several runs."""
    runs = [spawn_seeds(seed) for seed in (0, 1, 1_000_000, 2**32, 2**32 + 1, 2**64)]
    seeds = [*itertools.chain(*runs), *(spawn_seeds(seed, rank).method for seed in (0, 1) for rank in (1, 2))]
    drawn = {tuple(torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()) for seed in seeds}
    assert len(drawn) == len(seeds)


def test_ranks_share_all_streams_but_the_methods():
    first, second = spawn_seeds(3, rank=0), spawn_seeds(3, rank=1)
    assert first[:3] == second[:3]
    assert first.method != second.method
