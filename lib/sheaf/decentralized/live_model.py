"""Two predictions of a live job: an event model of its iteration, and the paper's cost of its placement."""

import heapq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sheaf.common.links import LinkClock, LinkTable
from sheaf.decentralized.live_jobs import LiveJob

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """Seconds of the phases and of an iteration by the event model, and the paper's COMM_DP and COMM_PP (seconds)."""

    forward: float
    backward: float
    gradients: float
    iteration: float
    comm_dp: float
    comm_pp: float

    @property
    def comm(self) -> float:
        """The paper's ranking cost COMM = COMM_DP + COMM_PP; not a time of an iteration."""
        return self.comm_dp + self.comm_pp


def predict(job: LiveJob, compute: tuple[float, float] = (0.0, 0.0)) -> Prediction:
    """Event model of one iteration of ``job``, with the links' own busy clock, and the paper's cost of its placement.

    Args:
        job: without links, communication takes no time.
        compute: seconds of one micro-batch on one stage, forward and backward; (0, 0) is communication alone.

    Returns:
        Phases as the live run measures them: from a common start to the last process's end of the phase.
    """
    work, grid = job.workload, np.array(job.grid)
    itemsize = 8 if job.dtype == "float64" else 4
    links = job.links or LinkTable.uniform(work.processes, 0.0, np.inf)
    clock, message = LinkClock(links), work.activation_bytes(itemsize)
    forward = _run_pipelines(clock, grid, work.micro_batches, message, compute[0], np.zeros(work.processes))
    turned = (forward[:, None] + links.delay).max(axis=0)  # a barrier ends when the last note has come
    backward = _run_pipelines(clock, grid[:, ::-1], work.micro_batches, message, compute[1], turned)
    exchange = (backward[:, None] + links.delay).max(axis=0)
    gradients = work.gradient_bytes(itemsize)
    synchronised = exchange.copy()
    for stage, nbytes in enumerate(gradients):
        members = grid[:, stage]
        synchronised[members] = _exchange(clock, members, -(-nbytes // len(members)), exchange[members])
    end = (synchronised[:, None] + links.delay).max()
    comm_dp = max(
        sum(2 * (links.delay[d, e] + max(gradients) * 8 / len(group) / links.bandwidth[d, e]) for e in group if e != d)
        for group in grid.T for d in group
    )
    hops = links.delay + work.micro_batches * message * 8 / links.bandwidth
    comm_pp = 2 * sum(hops[grid[:, s], grid[:, s + 1]].max() for s in range(work.stages - 1))
    return Prediction(float(forward.max()), float((backward - turned).max()), float((synchronised - exchange).max()),
                      float(end), float(comm_dp), float(comm_pp))


def _run_pipelines(
    clock: LinkClock, grid: np.ndarray, count: int, nbytes: int, seconds: float, ready: np.ndarray,
) -> np.ndarray:
    """When each process ends a phase in which micro-batches pass the columns of ``grid``; ``ready``: when it starts."""
    free, done = ready.copy(), ready.copy()
    arrival = {(int(row[0]), m): 0.0 for row in grid for m in range(count)}
    onward = {int(a): int(b) for row in grid for a, b in pairwise(row)}
    following = dict.fromkeys(range(len(ready)), 0)
    queue: list[tuple[float, int, int]] = []

    def start(device: int) -> None:
        m = following[device]
        if m < count and (device, m) in arrival:
            following[device] = m + 1
            heapq.heappush(queue, (max(free[device], arrival[device, m]) + seconds, device, m))

    for row in grid:
        start(int(row[0]))
    while queue:  # in order of time, so that messages enter shared cards in the order they are sent
        now, device, m = heapq.heappop(queue)
        free[device] = done[device] = now
        if device in onward:
            peer = onward[device]
            arrival[peer, m] = clock.send(device, peer, nbytes, now).arrives
            if following[peer] == m:
                start(peer)
        start(device)
    return done


def _exchange(clock: LinkClock, members: np.ndarray, nbytes: int, ready: np.ndarray) -> np.ndarray:
    """When each member of a sharded parameter server has all results; each shard has ``nbytes``."""
    n = len(members)
    if n == 1:
        return ready

    def all_to_all(start: np.ndarray) -> np.ndarray:
        last = start.copy()
        for j in np.argsort(start, kind="stable"):
            for i in (i for i in range(n) if i != j):
                last[i] = max(last[i], clock.send(members[j], members[i], nbytes, start[j]).arrives)
        return last

    return all_to_all(all_to_all(ready))
