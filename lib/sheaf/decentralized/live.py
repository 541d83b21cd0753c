"""Live check of placements: 8 processes train a small GPT over emulated links, against two models of the same run.

The paper's rule is to keep pipelines inside a region and let gradients cross, which is right when activations outweigh
gradients. The tables here hold one network and workload where they do, one where they do not, and one homogeneous
network where placement cannot matter; so the check can fail in either direction.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sheaf.common.gpt import GPT, flat_gradient, next_token_loss
from sheaf.common.launch import LaunchError, launch
from sheaf.common.links_netns import NamespaceNetwork
from sheaf.common.stats import interval
from sheaf.common.text import read_text_tokens
from sheaf.decentralized.live_jobs import Grid, LiveJob, LiveTable, Workload, placements, plan, tables
from sheaf.decentralized.live_model import Prediction, predict
from sheaf.decentralized.live_worker import PHASES, batch

__all__ = [
    "Grid", "LaunchError", "LiveJob", "LiveRun", "LiveTable", "Prediction", "Workload", "compare", "gradient_check",
    "order_agreement", "placements", "plan", "predict", "reference_gradients", "run_live", "tables", "traffic_by_class",
]

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


def run_live(jobs: Sequence[LiveJob], *, timeout: float = 300.0, records: Path | None = None,
             on_record: Callable[[dict[str, Any]], None] | None = None, namespaces: bool = False) -> LiveRun:
    """Run all jobs in one launch of ``stages x pipelines`` processes: repetition 1 of every job, then 2, and so on.

    Args:
        jobs: all with the same number of processes.
        timeout: seconds for the whole launch.
        records: file that measurements are appended to as they come, as JSON lines.
        on_record: called after each job and repetition, for a progress display.
        namespaces: let the kernel shape the links, each process in a network namespace of its own; what it cannot do
            (delay, without netem) is emulated. All jobs must then share one link table.

    Raises:
        ValueError: no jobs, jobs of different size, or of different links with ``namespaces``.
        NamespacesUnavailable: ``namespaces`` on a machine that cannot do it; says why.
        FileNotFoundError: a workload names a folder without text.
        LaunchError: a process failed or time ran out; ``records`` of the error holds what was measured before.
    """
    sizes = {job.workload.processes for job in jobs}
    if len(sizes) != 1:
        raise ValueError(f"a live run needs jobs of one size; got sizes {sorted(sizes)}")
    for folder in {job.workload.text for job in jobs if job.workload.text}:
        read_text_tokens(Path(folder), limit=1)
    with tempfile.TemporaryDirectory(prefix="sheaf-live-") as name, _shaped(jobs, namespaces) as network:
        emulated = {i: network.remaining if network else j.links for i, j in enumerate(jobs)}
        plain = [
            {"number": i, "workload": asdict(j.workload), "links": links.to_dict() if (links := emulated[i]) else None,
             "grid": j.grid, "iterations": j.iterations, "repetitions": j.repetitions, "dtype": j.dtype,
             "gradients": j.gradients, "delay_first": network is not None}
            for i, j in enumerate(jobs)
        ]
        found = launch("sheaf.decentralized.live_worker", {"jobs": plain, "gradients": name}, processes=sizes.pop(),
                       timeout=timeout, records=records, on_record=on_record, hosts=network.hosts if network else None)
        errors = [row for i, job in enumerate(jobs) if job.gradients for row in _gradient_errors(i, job, Path(name))]
    return LiveRun(_times(jobs, found), _traffic(jobs, found), pd.DataFrame(errors))


def _shaped(jobs: Sequence[LiveJob], namespaces: bool) -> AbstractContextManager[NamespaceNetwork | None]:
    if not namespaces:
        return nullcontext()
    links = jobs[0].links
    if links is None or any(job.links is not links for job in jobs):
        raise ValueError("namespaces shape one network at a time; give jobs that share one link table, a launch per table")
    return NamespaceNetwork(links)


def gradient_check(
    workload: Workload | None = None, *, dtypes: Sequence[str] = ("float32", "float64"), timeout: float = 120.0,
) -> pd.DataFrame:
    """Gradients of one distributed iteration against a single process on the same data, as ``LiveRun.gradients``.

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


def compare(run: LiveRun, jobs: Sequence[LiveJob]) -> pd.DataFrame:
    """Measured against predicted, a row per shaped job.

    Columns: ``seconds`` with ``low``, ``high`` (95% interval over repetitions) and ``n``; ``predicted``, communication
    alone, which is a lower bound; ``predicted_high``, that plus an iteration of the unshaped arm, as if nothing
    overlapped; ``comm``, the paper's cost; ``compute_share``, iteration of the unshaped arm over this one;
    ``dp_seconds``, ``dp_predicted`` and ``dp_error`` (relative) of the gradient phase.
    """
    per = run.times.groupby(["table", "placement", "repetition"], sort=False)[list(PHASES)].mean().reset_index()

    def of(job: LiveJob) -> pd.DataFrame:
        return per[(per.table == job.table) & (per.placement == job.placement)]

    unshaped = {job.workload: of(job) for job in jobs if job.table == "no links"}
    rows = []
    for job in jobs:
        if job.links is None:
            continue
        mine = of(job)
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
        table, faster and slower placement as predicted, predicted and measured ratio, ``agrees`` (of the means), and
        ``apart``: the measured intervals do not overlap and agree (False where one repetition gives no interval).
    """
    rows = []
    for table, group in frame.groupby("table", sort=False):
        ordered = group.sort_values(predicted).to_dict("records")
        for i, fast in enumerate(ordered):
            for slow in ordered[i + 1 :]:
                if slow[predicted] - fast[predicted] > tie * slow[predicted]:
                    rows.append({
                        "table": table, "faster": fast["placement"], "slower": slow["placement"],
                        "predicted_ratio": slow[predicted] / fast[predicted],
                        "measured_ratio": slow["seconds"] / fast["seconds"],
                        "agrees": slow["seconds"] > fast["seconds"], "apart": slow["low"] > fast["high"],
                    })
    columns = ["table", "faster", "slower", "predicted_ratio", "measured_ratio", "agrees", "apart"]
    return pd.DataFrame(rows, columns=columns)


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
            {"table": job.table, "placement": job.placement, "repetition": r["repetition"], "src": int(a),
             "dst": int(b), **{k: v[a, b] for k, v in traffic.items()}, "late": late[a, b]}
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


def traffic_by_class(run: LiveRun, jobs: Sequence[LiveJob]) -> pd.DataFrame:
    """Megabytes and messages of one repetition inside and across regions; the first half of the devices is a region.

    A row per table and placement with links. The counts do not depend on timing.
    """
    shaped = {(j.table, j.placement): j for j in jobs if j.links is not None}
    first = run.links[(run.links["repetition"] == run.links["repetition"].min())]
    rows = []
    for key, job in shaped.items():
        part = first[(first["table"] == key[0]) & (first["placement"] == key[1])]
        half = job.workload.processes // 2
        inside = (part["src"] < half) == (part["dst"] < half)
        rows.append({
            "table": key[0], "placement": key[1],
            "MB inside": part.loc[inside, "bytes"].sum() / 1e6, "MB across": part.loc[~inside, "bytes"].sum() / 1e6,
            "messages inside": int(part.loc[inside, "messages"].sum()),
            "messages across": int(part.loc[~inside, "messages"].sum()),
        })
    return pd.DataFrame(rows)
