"""Recording many demonstrations: which ones, each carried out on fresh applications, stored whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sheaf.wonderbread.recorder import Recorder, Recording, Style, nominal_clock, restricted_context, write_recording
from sheaf.wonderbread.video import screencast

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from sheaf.common.apps import AppServer, Workflow

__all__ = ["LAPTOP", "POLICIES", "SHIPPED", "Job", "plan", "record_job", "record_missing", "shipped_plan"]

POLICIES = ("direct", "detour", "redundant", "keyboard", "backtrack", "wrong")
EPOCH = datetime(2024, 3, 1, 9, 0, 0)  # demonstrations are dated by task and policy, not by the clock on the wall
SHIPPED = Style(viewport=(1024, 512), scale=0.4, colours=16, html=False)
LAPTOP = Style(viewport=(1280, 720), scale=0.5, colours=64, html=False)
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Job:
    """One demonstration to record: a workflow with its slots filled, carried out by one policy.

    ``rank`` orders the procedures of the task by their known defects, 1 the fewest; never 1 for the wrong policy.
    """

    workflow: "Workflow"
    slots: dict[str, str]
    task_id: int
    policy: str
    sop: str
    defects: int
    rank: int
    original_sop: str | None

    @property
    def name(self) -> str:
        moment = EPOCH + timedelta(days=POLICIES.index(self.policy), minutes=self.task_id % 480)
        return f"{self.task_id} @ {moment:%Y-%m-%d-%H-%M-%S}"


def plan(
    templates: int, fillings: int, policies: Sequence[str], seed: int, sites: Sequence[str] = ()
) -> list[Job]:
    """The demonstrations of a corpus: the first ``templates`` workflows, sites in turn, each with ``fillings`` fillings.

    ``sites`` limits the workflows to these sites; all by default.

    Raises:
        ValueError: an unknown policy or site, no policy that reaches the goal, or more templates or fillings than
            there are.
    """
    from sheaf.common.apps import DEFECTS, WORKFLOWS, original_sop, ranked_sops, task_id

    if unknown := [p for p in policies if p not in POLICIES]:
        raise ValueError(f"no policy {', '.join(map(repr, unknown))}; policies: {', '.join(POLICIES)}")
    if not set(policies) - {"wrong"}:
        raise ValueError("at least one policy besides 'wrong' is needed: a task needs a demonstration that reaches its goal")
    known = {workflow.site for workflow in WORKFLOWS.values()}
    if strange := [site for site in sites if site not in known]:
        raise ValueError(f"no site {', '.join(map(repr, strange))}; sites: {', '.join(sorted(known))}")
    chosen = _in_turn([w for w in WORKFLOWS.values() if not sites or w.site in sites])
    most = min(len(w.fillings) for w in chosen)
    if not 1 <= templates <= len(chosen) or not 1 <= fillings <= most:
        raise ValueError(f"templates: 1 to {len(chosen)}, fillings: 1 to {most}; got {templates} and {fillings}")
    jobs = []
    for workflow in chosen[:templates]:
        own = [p for p in POLICIES if p in policies and p in workflow.policies]
        for filling, slots in enumerate(workflow.fillings[:fillings]):
            number = task_id(workflow, filling)
            rng = np.random.default_rng([seed, number])
            texts = ranked_sops(workflow, slots, len(own), rng)
            order = sorted(range(len(own)), key=lambda i: texts[i][1])
            best = [p for p in own if p != "wrong"][int(rng.integers(sum(p != "wrong" for p in own)))]
            rest = [own[i] for i in rng.permutation(len(own)) if own[i] != best]
            for rank, (place, policy) in enumerate(zip(order, [best, *rest], strict=True), start=1):
                text, count = texts[place]
                first = None
                if rank == 1:
                    defects = [DEFECTS[i] for i in rng.permutation(len(DEFECTS))[: int(rng.integers(1, 4))]]
                    first = original_sop(workflow, slots, defects, rng)
                jobs.append(Job(workflow, dict(slots), number, policy, text, count, rank, first))
    return jobs


def shipped_plan() -> list[Job]:
    """The nine demonstrations of the corpus that ships: three workflows of one site, three policies each."""
    return plan(3, 1, ["direct", "detour", "wrong"], seed=0, sites=["payables"])


def record_job(browser: "Browser", server: "AppServer", job: Job, style: Style) -> Recording:
    """Carries one job out on freshly reset applications and records it.

    Raises:
        RuntimeError: the end state is not what the policy should reach, so nothing of it can be kept.
    """
    server.reset()
    site = job.workflow.site
    with restricted_context(browser, server.origin, style.viewport) as context:
        server.login(context)
        page = context.new_page()
        recorder = Recorder(page, server.origin, style, nominal_clock())
        with screencast(page) if style.video else nullcontext() as film:
            job.workflow.perform(recorder, job.slots, job.policy)
            completed = job.workflow.check(server, job.slots)
            if completed == (job.policy == "wrong"):
                ended = f"policy {job.policy!r} {'reached' if completed else 'missed'} the goal"
                raise RuntimeError(f"{job.workflow.id}, task {job.task_id}: {ended}; nothing was kept")
            start = datetime.strptime(job.name.split(" @ ")[1], "%Y-%m-%d-%H-%M-%S")
            recording = recorder.finish(_task(job, recorder.public(server.url(site)), completed), start)
        return replace(recording, film=film)


def _task(job: Job, start_url: str, completed: bool) -> dict[str, Any]:
    """What the trace says about its task: the published fields, and ours beside them."""
    workflow = job.workflow
    return {
        "task_id": job.task_id, "intent": workflow.intent.format(**job.slots), "intent_template": workflow.intent,
        "sites": [workflow.site], "start_url": start_url, "instantiation_dict": job.slots,
        "eval": {"eval_types": ["database"]}, "template": workflow.id, "policy": job.policy, "completed": completed,
        "rank": job.rank, "sop_defects": job.defects,
    }  # fmt: skip


def record_missing(folder: Path, jobs: Sequence[Job], style: Style) -> Iterator[Job]:
    """Records the jobs that have no folder yet, one after the other in one browser; yields each once it is stored.

    Raises:
        BrowserMissing: there is no Chromium here.
        RuntimeError: see ``record_job``.
    """
    from sheaf.common.apps import serve
    from sheaf.common.browser import launch

    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(left, ignore_errors=True)
    missing = [job for job in jobs if not (folder / job.name).is_dir()]
    if not missing:
        return
    with serve() as server, launch() as browser:
        for job in missing:
            _store(folder, job, record_job(browser, server, job, style), style)
            yield job


def _store(folder: Path, job: Job, recording: Recording, style: Style) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))
    try:
        scratch.chmod(0o755)
        write_recording(recording, scratch, job.name, style)
        (scratch / f"SOP - {job.name}.txt").write_text(job.sop.rstrip() + "\n", encoding="utf-8")
        if job.original_sop is not None:
            (scratch / f"[orig] SOP - {job.name}.txt").write_text(job.original_sop.rstrip() + "\n", encoding="utf-8")
        scratch.replace(folder / job.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _in_turn(workflows: "list[Workflow]") -> "list[Workflow]":
    """Sites take turns, so that the first few workflows already cover all of them."""
    seen: dict[str, int] = {}
    turns = []
    for workflow in workflows:
        turns.append(seen.get(workflow.site, 0))
        seen[workflow.site] = turns[-1] + 1
    sites = list(seen)
    order = sorted(range(len(workflows)), key=lambda i: (turns[i], sites.index(workflows[i].site)))
    return [workflows[i] for i in order]
