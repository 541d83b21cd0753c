"""`make reproduce`: plan, refuse what cannot work, let Snakemake run what is out of date, then judge and show."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from sheaf.artifact import publish, summary
from sheaf.artifact.caches import list_fonts
from sheaf.artifact.inventory import require_intact
from sheaf.artifact.lock import run_lock
from sheaf.artifact.manifest import Digests
from sheaf.artifact.parts import join
from sheaf.artifact.paths import results_dir, state_dir
from sheaf.artifact.plan import Item, chosen_papers, make_plan, split_names
from sheaf.artifact.processes import RUN, end_marked, identity, none_left_behind
from sheaf.artifact.progress import Display
from sheaf.artifact.record import RecordError, atomic_write, load
from sheaf.artifact.run import LAUNCHER, STOPS, cores, shown_results
from sheaf.artifact.spec import Paper

__all__ = ["EXECUTORS", "Options", "reproduce"]

EXECUTORS = ("local", "slurm")
INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """What `make reproduce` was asked for. ``papers`` empty means all, ``jobs`` 0 means one per core."""

    papers: tuple[str, ...] = ()
    profile: str = "laptop"
    jobs: int = 0
    executor: str = "local"
    seed: int = 0
    force: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ValueError(f"there is no executor {self.executor!r}; executors: {', '.join(EXECUTORS)}")
        if self.jobs < 0:
            raise ValueError(f"jobs is {self.jobs}; give the number of notebooks to run at the same time, 1 or more")

    @property
    def parallel(self) -> int:
        return self.jobs or (cores() if self.executor == "local" else 8)

    @property
    def threads(self) -> int:
        """Threads each notebook may use: the user's OMP_NUM_THREADS, else its share of the cores."""
        given = os.environ.get("SHEAF_THREADS") or os.environ.get("OMP_NUM_THREADS", "")
        if given.isdecimal() and int(given) > 0:
            return int(given)
        return max(1, cores() // self.parallel) if self.executor == "local" else 2


class _StopError(BaseException):
    """SIGINT, SIGTERM or SIGHUP reached the launcher."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


def _raise_stop(signum: int, frame: FrameType | None) -> None:
    for number in STOPS:  # a second Ctrl-C must not break off the ending of what runs
        signal.signal(number, signal.SIG_IGN)
    raise _StopError(signum)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    before = {number: signal.signal(number, _raise_stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def reproduce(options: Options, root: Path) -> int:
    """Run what is out of date, judge it, build the report, print the summary.

    Returns:
        Exit code: 0 all notebooks' results are in place, 1 some failed, 128 + n ended by signal n.

    Raises:
        SpecError, ValueError, FileNotFoundError: something asked for does not exist or is not valid, or data is damaged.
        PublishError: a results folder cannot be written.
        BusyError: another run is at work in this checkout.
    """
    specs = chosen_papers(split_names(options.papers), options.profile, root)
    if options.executor == "slurm" and not shutil.which("sbatch"):
        raise FileNotFoundError("EXECUTOR=slurm needs Slurm's sbatch on this machine; log in where it is, or use EXECUTOR=local")
    if options.dry_run:
        items = make_plan(specs, options.profile, options.seed, root, options.force)
        _print_plan(items, "would run")
        return 0
    names = ", ".join(spec.paper.id for spec in specs)
    with _stoppable():
        try:
            with run_lock(root, f"{options.profile} profile of {names}", options.executor) as run:
                return _reproduce(options, specs, root, run)
        except _StopError as stop:
            print("\nsheaf: stopped; what was finished is kept, call the same command to go on", file=sys.stderr)
            return stop.code


def _reproduce(options: Options, specs: Sequence[Paper], root: Path, run: str) -> int:
    started = time.time()
    for spec in specs:
        paper = spec.paper.id
        require_intact(paper, root)
        publish.probe_writable(results_dir(options.profile, paper, root), shown_results(options.profile, paper, root))
    items = make_plan(specs, options.profile, options.seed, root, options.force)
    stale = [item for item in items if item.why]
    _print_plan(items, "runs")
    code = 0
    if stale:
        _prepare(stale, options, root)
        list_fonts(root)  # here once, not in each of many notebooks that start together
        code = _snakemake(stale, options, root, run)
    left = [item for item in stale if not item.state.done.is_file()]
    made = {item.spec.paper.id for item in stale if item.state.done.is_file()}
    for spec in specs:
        if spec.paper.id in made or not _is_merged(spec, options.profile, root):
            join(spec.paper.id, options.profile, root)
    summary.failures(left, root)
    summary.papers(specs, options.profile, root)
    scratch = options.profile == "smoke"  # not kept in the repository, shown on a score board of its own
    base = results_dir(options.profile, "", root)
    index = (base if scratch else base.parent) / "index.html"
    shown_of = state_dir(root) / "shown" / f"{options.profile}.txt"
    records = _records(root)
    if not index.is_file() or not shown_of.is_file() or shown_of.read_text(encoding="utf-8") != records:
        from sheaf.artifact import report  # it brings jinja2 and nbconvert, which a run with nothing to do can spare

        report.build(root)
        if not scratch:
            report.update_readme(root)
        atomic_write(shown_of, records)
    shown = index.relative_to(root).as_posix() if index.is_relative_to(root) else "results/index.html"
    print(f"Score board: {shown}   ({time.time() - started:.0f} s)")
    if code and not left:
        print(f"sheaf: Snakemake ended with exit code {code}; see .sheaf/logs/snakemake.log", file=sys.stderr)
    return 1 if left or code else 0


def _is_merged(spec: Paper, profile: str, root: Path) -> bool:
    """Whether record.json holds what each notebook recorded; a run that was broken off may have stored more since."""
    folder = results_dir(profile, spec.paper.id, root)
    files = [folder / "records" / f"{notebook.name}.json" for notebook in spec.notebooks]
    try:
        whole = load(folder / "record.json")
    except RecordError:
        return False
    try:
        parts = [load(file) for file in files if file.is_file()]
    except RecordError:  # a damaged part makes its notebook run again; until it has, what was joined stays
        return True
    stored = {id: entry for part in parts for id, entry in part["entries"].items()}
    ran = {name: facts for part in parts for name, facts in part["notebooks"].items()}
    return whole["notebooks"] == ran and all(whole["entries"].get(id) == entry for id, entry in stored.items())


def _records(root: Path) -> str:
    """The records that the report shows, by digest: pages are made anew when they no longer are the ones shown."""
    base, digests = results_dir("", "", root), Digests(root)
    found = [f"{digests.of(file)} {file.relative_to(base).as_posix()}\n" for file in sorted(base.glob("*/*/record.json"))]
    digests.save()
    return "".join(found)


def _print_plan(items: Sequence[Item], verb: str) -> None:
    stale = [item for item in items if item.why]
    fresh = len(items) - len(stale)
    if not stale:
        print(f"sheaf: nothing to run, all {fresh} notebooks are up to date")
        return
    print(f"sheaf: {len(stale)} of {len(items)} notebooks to run, {fresh} up to date")
    for item in stale:
        more = f" (and {len(item.why) - 3} more; `python -m sheaf why` lists them)" if len(item.why) > 3 else ""
        print(f"  {item.state.name} {verb}: {'; '.join(item.why[:3])}{more}")


def _prepare(stale: Sequence[Item], options: Options, root: Path) -> None:
    """Write wanted manifests and the plan, and take away the done files of what has to run."""
    state = state_dir(root)
    chosen = {(item.spec.paper.id, item.state.notebook) for item in stale}
    jobs = []
    for item in stale:
        paper = item.spec.paper.id
        for trace in (item.state.done, item.state.failed, item.state.heartbeat, item.state.log):  # what is there is of this run
            trace.unlink(missing_ok=True)
        atomic_write(item.state.manifest, json.dumps(item.manifest, indent=0))
        item.state.log.parent.mkdir(parents=True, exist_ok=True)
        earlier = [n.name for n in item.spec.notebooks if n.name < item.state.notebook and (paper, n.name) in chosen]
        after = [f".sheaf/done/{options.profile}/{paper}/{name}.json" for name in earlier[-1:]]
        jobs.append({
            "paper": paper, "notebook": item.state.notebook, "done": item.state.shown(item.state.done), "after": after,
            "kernels": bool(item.spec.paper.kernels), "minutes": item.minutes,
        })  # fmt: skip
    (state / "done" / "kernels").unlink(missing_ok=True)  # its build is incremental and knows itself what to do
    threads = 1 if options.executor == "local" else options.threads  # locally --cores counts notebooks
    plan = {"python": sys.executable, "seed": options.seed, "threads": threads, "mem_mb": 4000, "jobs": jobs}
    atomic_write(state / "plan.json", json.dumps(plan, indent=1))
    # Snakemake's own memory of earlier runs is not wanted: what is stale was decided above, and a crash can damage it
    for folder in ("incomplete", "metadata", "locks"):
        shutil.rmtree(root / ".snakemake" / folder, ignore_errors=True)


def _command(options: Options, root: Path) -> list[str]:
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", "Snakefile", "--directory", ".", "--keep-going", "--rerun-incomplete",
        "--rerun-triggers", "mtime", "--printshellcmds", "--nolock", "--nocolor",
    ]  # fmt: skip
    if options.executor == "slurm":
        profile = Path(__file__).parent / "profiles" / "slurm"
        return [*command, "--workflow-profile", str(profile), "--jobs", str(options.parallel)]
    return [*command, "--cores", str(options.parallel), "--latency-wait", "3", "--workflow-profile", "none"]


def _environment(options: Options, root: Path, run: str) -> dict[str, str]:
    paths = [str(root / "lib"), str(root / "kernels")]
    given = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(p).is_absolute() and p not in paths]
    own = {
        RUN: run,
        "SHEAF_ROOT": str(root),
        "SHEAF_THREADS": str(options.threads),
        "PYTHONPATH": os.pathsep.join([*paths, *given]),
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(state_dir(root) / "cache"),  # Snakemake keeps sources there; the home folder may be read-only
    }
    if options.executor == "local":
        own[LAUNCHER] = identity()
    kept = {k: v for k, v in os.environ.items() if k not in ("SNAKEMAKE_PROFILE", LAUNCHER, "SHEAF_HEARTBEAT")}
    return kept | own


def _snakemake(stale: Sequence[Item], options: Options, root: Path, run: str) -> int:
    """Run the plan to its end and show it; on any way out nothing of it is left running."""
    log = state_dir(root) / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out, none_left_behind():
        process = subprocess.Popen(
            _command(options, root), cwd=root, env=_environment(options, root, run), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            with Display([item.state for item in stale], Console()) as display:
                while process.poll() is None:
                    display.update()
                    time.sleep(0.25)
        finally:
            if process.poll() is None and options.executor == "slurm":  # asked in this way it cancels its cluster jobs
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=60)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            end_marked(RUN, run, grace=5)
            process.wait()
    return process.returncode
