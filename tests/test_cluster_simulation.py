"""The simulated cluster, against schedules that are known."""

import pytest

from mmbook.cluster import Cluster, Job, expected_hours, simulate


def test_jobs_share_the_gpus_in_the_order_of_the_queue():
    assert simulate([Job(1.0)] * 10, Cluster(gpus=4)) == (3.0, 0)
    assert simulate([Job(1.0)] * 10, Cluster(gpus=64)) == (1.0, 0)
    # A small job goes before the one of eight, which waits for seven cards and then runs alone.
    assert simulate([Job(3.0), Job(5.0, gpus=8), Job(2.0)], Cluster(gpus=8)) == (8.0, 0)
    assert simulate([Job(1.0), Job(1.0, arrival=5.0)], Cluster(gpus=1)) == (6.0, 0)
    assert simulate([Job(3.0), Job(1.0, arrival=1.0)], Cluster(gpus=1)) == (4.0, 0)


def test_a_job_that_never_fits_is_refused():
    with pytest.raises(ValueError, match="gpus must be at least 8, which a job needs, got 4"):
        simulate([Job(1.0), Job(1.0, gpus=8)], Cluster(gpus=4))


def test_interruptions_cost_what_theory_says():
    """With failures at rate r, hours c between checkpoints take (e^(rc) - 1) (1 / r + restart)."""
    from math import expm1

    rate, checkpoint, restart = 24 / 24, 0.5, 0.25
    cluster = Cluster(gpus=1, interruptions=24, checkpoint_hours=checkpoint, restart_hours=restart)
    hours, interruptions = expected_hours([Job(10.0)], cluster, draws=4000)
    assert hours == pytest.approx(10.0 / checkpoint * expm1(rate * checkpoint) * (1 / rate + restart), rel=0.02)
    assert interruptions == pytest.approx(10.0 / checkpoint * expm1(rate * checkpoint), rel=0.02)


def test_more_gpus_never_take_longer_here_and_wide_jobs_fail_more_often():
    jobs = [Job(2.0)] * 33
    hours = [expected_hours(jobs, Cluster(gpus, interruptions=0.5))[0] for gpus in (1, 8, 64)]
    assert hours == sorted(hours, reverse=True)
    often = [expected_hours([Job(20.0, gpus)], Cluster(8, interruptions=1), draws=200)[1] for gpus in (1, 8)]
    assert 4 < often[1] / often[0] < 12
