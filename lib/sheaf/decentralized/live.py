"""Live check of placements: 8 processes train a small GPT over emulated links, against two models of the same run.

The paper's rule is to keep pipelines inside a region and let gradients cross, which is right when activations outweigh
gradients. The tables here hold one network and workload where they do, one where they do not, and one homogeneous
network where placement cannot matter; so the check can fail in either direction.
"""

import heapq
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sheaf.common.gpt import GPT, flat_gradient, next_token_loss
from sheaf.common.launch import LaunchError, launch
from sheaf.common.links import LinkClock, LinkTable
from sheaf.common.stats import interval
from sheaf.common.text import read_text_tokens
from sheaf.decentralized.live_worker import PHASES, Workload, batch

__all__ = [
    "LaunchError", "LiveJob", "LiveRun", "LiveTable", "Prediction", "Workload", "compare", "gradient_check", "order_agreement",
    "placements", "plan", "predict", "reference_gradients", "run_live", "tables",
]

Grid = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LiveTable:
    """A network and a workload; ``favours`` is the placement that the traffic ratio speaks for, None when none."""

    name: str
    title: str
    links: LinkTable
    workload: Workload
    favours: str | None

    @property
    def traffic_ratio(self) -> float:
        """Gradient bytes over activation bytes across one boundary: above 1, gradients should stay inside a region.

        An exchange sends the largest stage gradient once each way around a pair; activations of one pipeline cross a
        boundary forward and their gradients backward.
        """
        work = self.workload
        return max(work.gradient_bytes()) / (2 * work.micro_batches * work.activation_bytes())


@dataclass(frozen=True)
class LiveJob:
    """One arm of a live run.

    Attributes:
        table, placement: names shown in frames.
        links: None for unshaped transport, the arm that shows what computing alone costs.
        grid: [pipelines][stages], the process (= device of the link table) that holds each cell.
        iterations: timed in each repetition. All repetitions start from the same weights and see the same data.
        gradients: also compare the first iteration's gradients with a single process.
    """

    table: str
    placement: str
    workload: Workload
    links: LinkTable | None
    grid: Grid
    iterations: int = 2
    repetitions: int = 3
    dtype: str = "float32"
    gradients: bool = False

    def __post_init__(self) -> None:
        work = self.workload
        cells = sorted(device for row in self.grid for device in row)
        if len(self.grid) != work.pipelines or any(len(r) != work.stages for r in self.grid) or cells != list(range(work.processes)):
            raise ValueError(f"grid must hold each device 0..{work.processes - 1} once, in {work.pipelines} rows (pipelines) of "
                             f"{work.stages} (stages); got {self.grid}")
        if self.links is not None and self.links.size != work.processes:
            raise ValueError(f"the link table has {self.links.size} devices, the workload {work.processes}")
        if self.dtype not in ("float32", "float64") or self.iterations < 1 or self.repetitions < 1:
            raise ValueError(f"dtype must be float32 or float64, iterations and repetitions at least 1; got {self.dtype}, "
                             f"{self.iterations}, {self.repetitions}")


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


@dataclass(frozen=True)
class LiveRun:
    """What a launch measured.

    Attributes:
        times: a row per job, repetition and iteration; seconds of the slowest process in each phase, ``computing`` CPU
            seconds of all processes, ``loss`` in nats.
        links: a row per job and ordered pair with traffic: bytes, messages, busy seconds, seconds late.
        gradients: a row per checked job, stage and pipeline: relative error against a single process, and norms.
    """

    times: pd.DataFrame
    links: pd.DataFrame
    gradients: pd.DataFrame


def tables(time_scale: float = 1.0, *, stages: int = 4, pipelines: int = 2, text: str | None = None) -> dict[str, LiveTable]:
    """The three link tables with their workloads.

    Args:
        time_scale: multiplies every delay and divides every bandwidth, so all communication takes that much longer.
        stages, pipelines: of the workload; half of the devices are in each region.
        text: folder of text files to train on instead of the synthetic stream.

    Raises:
        ValueError: a scale that is not positive, or an odd number of devices.
    """
    devices = stages * pipelines
    if time_scale <= 0 or devices % 2:
        raise ValueError(f"tables need a positive time scale and an even number of devices; got {time_scale} and {devices}")
    region = [0] * (devices // 2) + [1] * (devices // 2)

    def link(milliseconds: float, megabits: float) -> tuple[float, float]:
        return milliseconds * 1e-3 * time_scale, megabits * 1e6 / time_scale

    shape = {"stages": stages, "pipelines": pipelines, "text": text}
    heavy = Workload(width=128, layers_per_stage=2, length=32, micro_batch=1, micro_batches=4, **shape)
    light = Workload(width=32, layers_per_stage=1, length=64, micro_batch=8, micro_batches=4, **shape)
    found = [
        LiveTable("gradients", "two regions; gradients outweigh activations",
                  LinkTable.of_regions(region, inside=link(2, 200), across=link(40, 20)), heavy, "stages inside"),
        LiveTable("activations", "two regions; activations outweigh gradients",
                  LinkTable.of_regions(region, inside=link(1, 100), across=link(30, 10)), light, "pipelines inside"),
        LiveTable("homogeneous", "one network for all pairs; placement cannot matter",
                  LinkTable.uniform(devices, *link(10, 50)), heavy, None),
    ]
    return {t.name: t for t in found}


def placements(seed: int = 0, *, stages: int = 4, pipelines: int = 2) -> dict[str, Grid]:
    """Four placements on two regions of equal size, the first half of the devices being one region.

    ``stages inside``: the data-parallel group of each stage in one region, one boundary of each pipeline crosses.
    ``pipelines inside``: each pipeline in one region, all gradients cross. ``alternating``: groups inside a region, but
    consecutive stages in different ones. ``random``: a seeded permutation.
    """
    devices = np.arange(stages * pipelines)
    by_stage = devices.reshape(stages, pipelines)
    woven = np.empty_like(by_stage)
    woven[0::2], woven[1::2] = by_stage[: (stages + 1) // 2], by_stage[(stages + 1) // 2 :]
    grids = {
        "stages inside": by_stage.T,
        "pipelines inside": devices.reshape(pipelines, stages),
        "alternating": woven.T,
        "random": np.random.default_rng(seed).permutation(devices).reshape(pipelines, stages),
    }
    return {name: tuple(tuple(int(d) for d in row) for row in grid) for name, grid in grids.items()}


def plan(of: Sequence[LiveTable], *, repetitions: int = 3, iterations: int = 2, training_iterations: int = 12,
         seed: int = 0) -> list[LiveJob]:
    """Jobs of a whole check: gradients in two precisions, an unshaped arm per workload, then table x placement.

    The first unshaped arm trains for ``training_iterations``, to see the loss fall.
    """
    jobs: list[LiveJob] = []
    for table in of:
        work, grid = table.workload, placements(seed, stages=table.workload.stages, pipelines=table.workload.pipelines)["stages inside"]
        if not jobs:
            jobs += [LiveJob("check", f"gradients in {t}", work, None, grid, 1, 1, t, True) for t in ("float32", "float64")]
            jobs.append(LiveJob("check", "training", work, None, grid, training_iterations, 1))
        if not any(j.table == "no links" and j.workload == work for j in jobs):
            jobs.append(LiveJob("no links", table.name, work, None, grid, iterations, repetitions))
    for table in of:
        grids = placements(seed, stages=table.workload.stages, pipelines=table.workload.pipelines)
        jobs += [LiveJob(table.name, name, table.workload, table.links, grid, iterations, repetitions) for name, grid in grids.items()]
    return jobs


def run_live(jobs: Sequence[LiveJob], *, timeout: float = 300.0, records: Path | None = None,
             on_record: Callable[[dict[str, Any]], None] | None = None) -> LiveRun:
    """Run all jobs in one launch of ``stages x pipelines`` processes, round by round: repetition 1 of every job, then 2.

    Args:
        jobs: all with the same number of processes.
        timeout: seconds for the whole launch.
        records: file that measurements are appended to as they come, as JSON lines.
        on_record: called after each job and repetition, for a progress display.

    Raises:
        ValueError: no jobs, or jobs of different size.
        FileNotFoundError: a workload names a folder without text.
        LaunchError: a process failed or time ran out; ``records`` of the error holds what was measured before.
    """
    sizes = {job.workload.processes for job in jobs}
    if len(sizes) != 1:
        raise ValueError(f"a live run needs jobs of one size; got sizes {sorted(sizes)}")
    for folder in {job.workload.text for job in jobs if job.workload.text}:
        read_text_tokens(Path(folder), limit=1)
    with tempfile.TemporaryDirectory(prefix="sheaf-live-") as name:
        plain = [
            {"number": i, "workload": asdict(j.workload), "links": j.links.to_dict() if j.links else None, "grid": j.grid,
             "iterations": j.iterations, "repetitions": j.repetitions, "dtype": j.dtype, "gradients": j.gradients}
            for i, j in enumerate(jobs)
        ]
        found = launch("sheaf.decentralized.live_worker", {"jobs": plain, "gradients": name}, processes=sizes.pop(),
                       timeout=timeout, records=records, on_record=on_record)
        errors = [row for i, job in enumerate(jobs) if job.gradients for row in _gradient_errors(i, job, Path(name))]
    return LiveRun(_times(jobs, found), _traffic(jobs, found), pd.DataFrame(errors))


def gradient_check(workload: Workload | None = None, *, dtypes: Sequence[str] = ("float32", "float64"), timeout: float = 120.0,
                   ) -> pd.DataFrame:
    """Gradients of one distributed iteration against a single process on the same data; columns as ``LiveRun.gradients``.

    Raises:
        LaunchError: a process failed or time ran out.
    """
    work = workload or Workload()
    grid = placements(stages=work.stages, pipelines=work.pipelines)["stages inside"]
    jobs = [LiveJob("check", f"gradients in {t}", work, None, grid, 1, 1, t, True) for t in dtypes]
    return run_live(jobs, timeout=timeout).gradients


def reference_gradients(workload: Workload, *, step: int = 0, dtype: torch.dtype = torch.float64) -> list[np.ndarray]:
    """Flat gradient of each stage, from one process that holds the whole model and all pipelines' data."""
    text = read_text_tokens(Path(workload.text)) if workload.text else None
    model = GPT(workload.config, workload.seed).to(dtype)
    for pipeline in range(workload.pipelines):
        inputs, targets = batch(workload, pipeline, step, text)
        loss = next_token_loss(model(inputs.flatten(0, 1)), targets.flatten(0, 1))
        (loss / workload.pipelines).backward()
    return [flat_gradient(model.stage(i, workload.stages)).numpy() for i in range(workload.stages)]


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
        synchronised[members] = _exchange(clock, members, nbytes / len(members), exchange[members])
    end = (synchronised[:, None] + links.delay).max()
    comm_dp = max(
        sum(2 * (links.delay[d, e] + max(gradients) * 8 / len(group) / links.bandwidth[d, e]) for e in group if e != d)
        for group in grid.T for d in group
    )
    hops = links.delay + work.micro_batches * message * 8 / links.bandwidth
    comm_pp = 2 * sum(hops[grid[:, s], grid[:, s + 1]].max() for s in range(work.stages - 1))
    return Prediction(float(forward.max()), float((backward - turned).max()), float((synchronised - exchange).max()), float(end),
                      float(comm_dp), float(comm_pp))


def compare(run: LiveRun, jobs: Sequence[LiveJob]) -> pd.DataFrame:
    """Measured against predicted, a row per shaped job.

    Columns: ``seconds`` with ``low``, ``high`` (95% interval over repetitions) and ``n``; ``predicted``, communication
    alone, which is a lower bound; ``predicted_high``, that plus an iteration of the unshaped arm, as if nothing overlapped;
    ``comm``, the paper's cost; ``compute_share``, iteration of the unshaped arm over this one; ``dp_seconds``,
    ``dp_predicted`` and ``dp_error`` (relative) of the gradient phase.
    """
    per = run.times.groupby(["table", "placement", "repetition"], sort=False)[[*PHASES, "computing"]].mean().reset_index()
    unshaped = {job.workload: per[(per.table == job.table) & (per.placement == job.placement)] for job in jobs if job.table == "no links"}
    rows = []
    for job in jobs:
        if job.links is None:
            continue
        mine = per[(per.table == job.table) & (per.placement == job.placement)]
        bare = unshaped.get(job.workload)
        alone, computing = predict(job), float(bare.iteration.mean()) if bare is not None else np.nan
        found = interval(mine.iteration) if len(mine) > 1 else None
        seconds, dp = float(mine.iteration.mean()), float(mine.gradients.mean())
        rows.append({
            "table": job.table, "placement": job.placement, "seconds": seconds,
            "low": found.low if found else np.nan, "high": found.high if found else np.nan, "n": len(mine),
            "predicted": alone.iteration, "predicted_high": alone.iteration + computing, "comm": alone.comm,
            "compute_share": computing / seconds,
            "dp_seconds": dp, "dp_predicted": alone.gradients, "dp_error": dp / alone.gradients - 1,
        })
    return pd.DataFrame(rows)


def order_agreement(frame: pd.DataFrame, predicted: str = "predicted", *, tie: float = 0.1) -> pd.DataFrame:
    """Does the measured order of placements equal the predicted one? A row per pair that the model tells apart.

    Args:
        frame: of :func:`compare`.
        predicted: the column that predicts, ``predicted`` or ``comm``.
        tie: pairs whose predictions differ by less than this fraction of the larger are ties, and left out.

    Returns:
        table, faster and slower placement as predicted, predicted and measured ratio, ``agrees``.
    """
    rows = []
    for table, group in frame.groupby("table", sort=False):
        ordered = group.sort_values(predicted).to_dict("records")
        for i, fast in enumerate(ordered):
            for slow in ordered[i + 1 :]:
                if slow[predicted] - fast[predicted] > tie * slow[predicted]:
                    rows.append({"table": table, "faster": fast["placement"], "slower": slow["placement"],
                                 "predicted_ratio": slow[predicted] / fast[predicted], "measured_ratio": slow["seconds"] / fast["seconds"],
                                 "agrees": slow["seconds"] > fast["seconds"]})
    return pd.DataFrame(rows, columns=["table", "faster", "slower", "predicted_ratio", "measured_ratio", "agrees"])


def _run_pipelines(clock: LinkClock, grid: np.ndarray, count: int, nbytes: int, seconds: float, ready: np.ndarray) -> np.ndarray:
    """When each process ends a phase in which micro-batches pass the columns of ``grid`` in order; ``ready`` when it starts."""
    free, done = ready.copy(), ready.copy()
    arrival = {(int(row[0]), m): 0.0 for row in grid for m in range(count)}
    onward = {int(a): int(b) for row in grid for a, b in zip(row, row[1:], strict=False)}
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


def _exchange(clock: LinkClock, members: np.ndarray, nbytes: float, ready: np.ndarray) -> np.ndarray:
    """When each member of a sharded parameter server has all results; each shard has ``nbytes``."""
    n = len(members)
    if n == 1:
        return ready
    part = [max(clock.send(members[j], members[i], nbytes, ready[j]).arrives for j in range(n) if j != i) for i in range(n)]
    owned = np.maximum(part, ready)
    result = [max(clock.send(members[j], members[i], nbytes, owned[j]).arrives for j in range(n) if j != i) for i in range(n)]
    return np.maximum(result, owned)


def _times(jobs: Sequence[LiveJob], found: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {"table": jobs[r["job"]].table, "placement": jobs[r["job"]].placement, "repetition": r["repetition"], "step": i,
         **{k: r["seconds"][k][i] for k in PHASES}, "computing": r["computing"][i], "loss": r["loss"][i]}
        for r in found for i in range(len(r["loss"]))
    ]
    return pd.DataFrame(rows)


def _traffic(jobs: Sequence[LiveJob], found: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for r in found:
        job, traffic = jobs[r["job"]], {k: np.array(v) for k, v in r["traffic"].items()}
        late = traffic.pop("late").T  # counted by the receiver
        rows += [
            {"table": job.table, "placement": job.placement, "repetition": r["repetition"], "src": int(a), "dst": int(b),
             **{k: v[a, b] for k, v in traffic.items()}, "late": late[a, b]}
            for a, b in zip(*np.nonzero(traffic["messages"]), strict=True)
        ]
    return pd.DataFrame(rows)


def _gradient_errors(number: int, job: LiveJob, folder: Path) -> list[dict[str, Any]]:
    reference = reference_gradients(job.workload, dtype=getattr(torch, job.dtype))
    rows = []
    for stage, expected in enumerate(reference):
        for pipeline in range(job.workload.pipelines):
            got = np.load(folder / f"{number}-{stage}-{pipeline}.npy")
            rows.append({"dtype": job.dtype, "stage": stage, "pipeline": pipeline,
                         "max_relative_error": float(np.abs(got - expected).max() / np.abs(expected).max()),
                         "norm": float(np.linalg.norm(got)), "reference_norm": float(np.linalg.norm(expected))})
    return rows
