"""A simulated cluster: how long grids take on so many GPUs, with arrivals, failures and preemptions.

Jobs start in the order of a queue as soon as enough GPUs are free; a later one that fits may go before an earlier one
that does not. A GPU that fails, or is taken away for a more urgent job, ends the job that it is part of. The job goes
back to the end of the queue and on from its last checkpoint.
"""

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A cell that waits for GPUs.

    Args:
        hours: of training without any interruption.
        gpus: that it occupies, all at the same time.
        arrival: hours after the start, when it enters the queue.
    """

    hours: float
    gpus: int = 1
    arrival: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """What befalls the jobs of a cluster.

    Args:
        gpus: all that there are.
        interruptions: of each GPU in a day, failures and preemptions together.
        checkpoint_hours: between two checkpoints; what came after the last one is done again.
        restart_hours: from an interruption until the job waits in the queue again.
    """

    gpus: int
    interruptions: float = 0.0
    checkpoint_hours: float = 5 / 60
    restart_hours: float = 2 / 60


def simulate(jobs: Sequence[Job], cluster: Cluster, seed: int = 0) -> tuple[float, int]:
    """Run jobs on a cluster until the last has finished.

    Returns:
        The hours until then, and how many times a job was interrupted.

    Raises:
        ValueError: a job needs more GPUs than there are.

    >>> simulate([Job(2.0), Job(2.0), Job(2.0)], Cluster(gpus=2))
    (4.0, 0)
    """
    if (most := max(job.gpus for job in jobs)) > cluster.gpus:
        raise ValueError(f"gpus must be at least {most}, which a job needs, got {cluster.gpus}")
    draw = random.Random(seed)
    left = [job.hours for job in jobs]
    events = [(job.arrival, number, "arrives") for number, job in enumerate(jobs)]
    heapq.heapify(events)
    queue: list[int] = []
    free, now, interrupted = cluster.gpus, 0.0, 0
    while events:
        now, number, what = heapq.heappop(events)
        if what == "arrives":
            queue.append(number)
        else:
            free += jobs[number].gpus
            if what == "is interrupted":
                interrupted += 1
                heapq.heappush(events, (now + cluster.restart_hours, number, "arrives"))
        for waiting in list(queue):
            if free == 0:
                break
            if jobs[waiting].gpus <= free:
                queue.remove(waiting)
                free -= jobs[waiting].gpus
                hours, what = _stretch(left, waiting, jobs[waiting].gpus, cluster, draw)
                heapq.heappush(events, (now + hours, waiting, what))
    return now, interrupted


def _stretch(left: list[float], number: int, gpus: int, cluster: Cluster, draw: random.Random) -> tuple[float, str]:
    """How long a job runs this time, and what ends it; of its hours left those up to the last checkpoint go off."""
    rate = gpus * cluster.interruptions / 24
    hours = draw.expovariate(rate) if rate else math.inf
    if hours >= left[number]:
        return left[number], "ends"
    left[number] -= hours // cluster.checkpoint_hours * cluster.checkpoint_hours
    return hours, "is interrupted"


def expected_hours(jobs: Sequence[Job], cluster: Cluster, draws: int = 20) -> tuple[float, float]:
    """Simulate several times; return the mean of the hours and the mean number of interruptions.

    >>> expected_hours([Job(8.0)], Cluster(gpus=1))
    (8.0, 0.0)
    """
    results = [simulate(jobs, cluster, seed) for seed in range(draws)]
    hours, interruptions = zip(*results)
    return sum(hours) / draws, sum(interruptions) / draws
