"""The networks, workloads, placements and jobs of the live check."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sheaf.common.links import LinkTable
from sheaf.decentralized.live_worker import Workload

__all__ = ["Grid", "LiveJob", "LiveTable", "Workload", "placements", "plan", "tables"]

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
        shape = [len(row) for row in self.grid]
        devices = sorted(device for row in self.grid for device in row)
        if shape != [work.stages] * work.pipelines or devices != list(range(work.processes)):
            raise ValueError(f"grid must hold each device 0..{work.processes - 1} once, in {work.pipelines} rows "
                             f"(pipelines) of {work.stages} (stages); got {self.grid}")
        if self.links is not None and self.links.size != work.processes:
            raise ValueError(f"the link table has {self.links.size} devices, the workload {work.processes}")
        if self.dtype not in ("float32", "float64") or self.iterations < 1 or self.repetitions < 1:
            raise ValueError(f"dtype must be float32 or float64, iterations and repetitions at least 1; "
                             f"got {self.dtype}, {self.iterations}, {self.repetitions}")


def tables(
    time_scale: float = 1.0, *, stages: int = 4, pipelines: int = 2, text: str | None = None,
) -> dict[str, LiveTable]:
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
        raise ValueError(f"tables need time_scale > 0 and an even number of devices; got {time_scale} and {devices}")
    region = [0] * (devices // 2) + [1] * (devices // 2)

    def link(milliseconds: float, megabits: float) -> tuple[float, float]:
        return milliseconds * 1e-3 * time_scale, megabits * 1e6 / time_scale

    base = Workload(stages, pipelines, micro_batches=4, text=text)
    heavy = replace(base, width=128, layers_per_stage=2, length=32, micro_batch=1)
    light = replace(base, width=32, layers_per_stage=1, length=64, micro_batch=8)
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
        work = table.workload
        grid = placements(seed, stages=work.stages, pipelines=work.pipelines)["stages inside"]
        if not jobs:
            jobs += [LiveJob("check", f"gradients in {dtype}", work, None, grid, 1, 1, dtype, True)
                     for dtype in ("float32", "float64")]
            jobs.append(LiveJob("check", "training", work, None, grid, training_iterations, 1))
        if not any(j.table == "no links" and j.workload == work for j in jobs):
            jobs.append(LiveJob("no links", table.name, work, None, grid, iterations, repetitions))
    for table in of:
        grids = placements(seed, stages=table.workload.stages, pipelines=table.workload.pipelines)
        jobs += [LiveJob(table.name, name, table.workload, table.links, grid, iterations, repetitions)
                 for name, grid in grids.items()]
    return jobs
