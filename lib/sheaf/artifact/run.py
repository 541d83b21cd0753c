"""One notebook, run and watched: its own processes, its time limit, its results stored whole or not at all."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from sheaf.artifact import publish
from sheaf.artifact.caches import cache_variables, list_fonts
from sheaf.artifact.inventory import require_intact
from sheaf.artifact.manifest import Digests, Manifest, cell_source, notebook_manifest, read_notebook
from sheaf.artifact.paths import notebook_path, results_dir, state_dir
from sheaf.artifact.processes import JOB, RUN, end_marked, is_alive, none_left_behind
from sheaf.artifact.record import atomic_write
from sheaf.artifact.scrub import scrub_text
from sheaf.artifact.spec import SpecError, load_paper

__all__ = ["LAUNCHER", "STOPS", "State", "cores", "run_notebook", "shown_results"]

LAUNCHER = "SHEAF_LAUNCHER"  # identity of the launcher on this machine; a job ends itself when that is gone
PARAMETERS = {"profile", "seed", "results_dir"}
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SOCKET_LIMIT = 60  # characters; a Unix socket's path holds about 100, and the kernel adds its own suffix


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shown_results(profile: str, paper: str, root: Path) -> str:
    """The results folder as messages and stored files name it: relative to the project where it lies inside."""
    folder = results_dir(profile, paper, root)
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else f"results/{profile}/{paper}"


@dataclass(frozen=True)
class State:
    """Where the runner keeps what it knows of one notebook; everything lies under ``.sheaf``."""

    root: Path
    profile: str
    paper: str
    notebook: str

    def _file(self, kind: str, suffix: str) -> Path:
        return state_dir(self.root) / kind / self.profile / self.paper / f"{self.notebook}{suffix}"

    @property
    def name(self) -> str:
        return f"{self.paper}/{self.notebook}"

    @property
    def manifest(self) -> Path:
        return self._file("manifests", ".json")

    @property
    def done(self) -> Path:
        return self._file("done", ".json")

    @property
    def log(self) -> Path:
        return self._file("logs", ".log")

    @property
    def heartbeat(self) -> Path:
        return self._file("heartbeat", ".jsonl")

    @property
    def failed(self) -> Path:
        return self._file("failed", ".json")

    @property
    def failed_notebook(self) -> Path:
        return self._file("failed", ".ipynb")

    @property
    def work(self) -> Path:
        return self._file("work", "")

    def shown(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class Failure:
    """Why a notebook's run was not stored; kept in ``.sheaf/failed`` until the next run of that notebook."""

    why: str
    traceback: str = ""
    cell: int | None = None


class _StopError(Exception):
    """The watchdog was told to end (Ctrl-C, SIGTERM, or its launcher is gone)."""


def check_parameters(path: Path) -> None:
    """See that papermill will set what the notebook reads; it would pass over a misspelt name in silence.

    Raises:
        ValueError: not exactly one cell tagged ``parameters``, or one that lacks a name.
    """
    cells = read_notebook(path)["cells"]
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    shown = f"{path.parent.name}/{path.name}"
    if len(tagged) != 1:
        raise ValueError(f"{shown} has {len(tagged)} cells tagged 'parameters'; give it exactly one")
    names = set(re.findall(r"^(\w+)\s*(?::[^=\n]+)?=", cell_source(tagged[0]), re.MULTILINE))
    if lacking := sorted(PARAMETERS - names):
        raise ValueError(f"{shown}: its parameters cell does not set {', '.join(lacking)}; add them")


def _environment(state: State, job: str, sockets: Path) -> dict[str, str]:
    root = state.root
    threads = os.environ.get("SHEAF_THREADS") or os.environ.get("OMP_NUM_THREADS") or str(cores())
    given = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(p).is_absolute()]
    ours = [str(root / "lib"), str(root / "kernels")]
    own = {
        "PYTHONPATH": os.pathsep.join([*ours, *(p for p in given if p not in ours)]),
        "SHEAF_ROOT": str(root),
        "SHEAF_HEARTBEAT": str(state.heartbeat),
        JOB: job,
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(sockets / "ipython"),  # no start-up scripts of the user's, nothing written to the home folder
        "JUPYTER_RUNTIME_DIR": str(sockets / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",  # a kernel called python3 in the home folder may be of another Python
    }
    # set, not defaulted: Snakemake gives every job's shell limits of its own, equal to the rule's threads
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), threads)
    return {**os.environ, **cache_variables(root), **limits, **own}


def _socket_folder() -> Path:
    """A short path for a folder of this job's own; made once it is written down, so that a killed run's can be found."""
    name = f"sheaf-{uuid.uuid4().hex[:12]}"
    folder = Path(tempfile.gettempdir(), name)
    return folder if len(str(folder)) <= SOCKET_LIMIT else Path("/tmp", name)


def _beat(file: Path, **facts: Any) -> None:
    """Say what is being done, for whoever looks on; a full disk does not stop the work."""
    with contextlib.suppress(OSError), file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(facts | {"t": round(time.time(), 1)}) + "\n")


def _relay(child: "subprocess.Popen[str]", state: State, cells: int) -> None:
    """Copy the child's output to ours, scrubbed, and note in the heartbeat which cell runs."""
    assert child.stdout is not None
    for line in child.stdout:
        if found := re.match(r"Executing Cell (\d+)-+", line):
            _beat(state.heartbeat, cell=int(found[1]), cells=cells)
        with contextlib.suppress(OSError):  # reading goes on, or the notebook would wait for ever to print
            print(scrub_text(line.rstrip("\n"), state.root), flush=True)


def _watch(child: "subprocess.Popen[str]", timeout: float) -> bool:
    """Wait for the child; False when the time limit ended it."""
    launcher = os.environ.get(LAUNCHER)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=min(1.0, max(0.01, deadline - time.monotonic())))
            return True
        if launcher and not is_alive(launcher):
            raise _StopError("the run that started it is gone")
    return child.poll() is not None


def _stop(signum: int, frame: FrameType | None) -> None:
    for number in STOPS:  # a second Ctrl-C must not break off the ending of what runs
        signal.signal(number, signal.SIG_IGN)
    raise _StopError(signal.Signals(signum).name)


def _execute(state: State, seed: int, timeout: float, sockets: Path) -> dict[str, Any]:
    """Run papermill in a session of its own; whatever it started is gone when this returns or raises."""
    work, path = state.work, notebook_path(state.paper, state.notebook, state.root)
    job = f"{state.profile}/{state.name}/{uuid.uuid4().hex[:12]}"
    staged = (work / "results").relative_to(state.root).as_posix()
    order = {
        "notebook": str(path), "output": str(work / "executed.ipynb"), "outcome": str(work / "outcome.json"),
        "cwd": str(path.parent), "sockets": str(sockets),
        "parameters": {"profile": state.profile, "seed": seed, "results_dir": staged},
    }  # fmt: skip
    (work / "job.json").write_text(json.dumps(order), encoding="utf-8")
    sockets.mkdir(mode=0o700)
    cells = len(read_notebook(path)["cells"])
    with none_left_behind():
        child = subprocess.Popen(
            [sys.executable, "-m", "sheaf.artifact.execute", str(work / "job.json")],
            env=_environment(state, job, sockets), cwd=state.root, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        reader = threading.Thread(target=_relay, args=(child, state, cells), daemon=True)
        reader.start()
        try:
            in_time = _watch(child, timeout)
        finally:
            end_marked(JOB, job)
            child.wait()
    reader.join(timeout=5)
    if not in_time:
        return {"status": "timeout"}
    try:
        return dict(json.loads((work / "outcome.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {"status": "died", "why": f"papermill itself ended with exit code {child.returncode}"}


def _scrub_heartbeat(state: State) -> None:
    """What a notebook counted on the way is text of its own; the file outlives the run."""
    with contextlib.suppress(OSError):
        atomic_write(state.heartbeat, scrub_text(state.heartbeat.read_text(encoding="utf-8", errors="replace"), state.root))


def _running_cell(state: State) -> int | None:
    """The cell that papermill last said it executes; its own copy does not tell when the kernel died."""
    beats = (json.loads(line) for line in state.heartbeat.read_text(encoding="utf-8").splitlines() if '"cell"' in line)
    return next((beat["cell"] for beat in reversed(list(beats)) if "cell" in beat), None)


def _failure(outcome: dict[str, Any], state: State, timeout: float) -> Failure | None:
    cell = publish.current_cell(state.work / "executed.ipynb", _running_cell(state))
    where = str(cell) if cell else "a cell"
    number = cell.number if cell else None
    match outcome["status"]:
        case "ran":
            return None
        case "raised":
            evalue = str(outcome["evalue"]).strip()
            first = publish.plain_text(evalue.splitlines()[0] if evalue else "")
            trace = scrub_text(publish.plain_text(outcome["traceback"]), state.root)
            return Failure(scrub_text(f"{where} raised {outcome['ename']}: {first}", state.root), trace, number)
        case "timeout":
            why = f"stopped at its limit of {timeout:g} s while {where} ran; raise timeout in paper.toml if it needs longer"
            return Failure(why, "", number)
    why = f"the kernel died while {where} ran (killed, out of memory, or os._exit was called)"
    return Failure(why, scrub_text(outcome.get("why", ""), state.root), number)


def _note_failure(state: State, failure: Failure) -> None:
    facts = asdict(failure) | {"when": datetime.now(UTC).isoformat(timespec="seconds"), "log": state.shown(state.log)}
    atomic_write(state.failed, json.dumps(facts, indent=1))


def _write_failure(state: State, failure: Failure, job: publish.Job) -> None:
    executed = state.work / "executed.ipynb"
    with contextlib.suppress(OSError, ValueError):  # nothing to keep when the kernel never started
        nb = publish.clean_notebook(read_notebook(executed), job)
        atomic_write(state.failed_notebook, publish.dump_notebook(nb))
    _note_failure(state, failure)
    if failure.traceback:
        print(failure.traceback, flush=True)
    print(f"sheaf: {state.name} failed: {failure.why}", flush=True)


def _manifest(state: State, seed: int) -> Manifest:
    """The manifest that the launcher planned with; made here when the notebook is run by hand."""
    if state.manifest.is_file() and os.environ.get(RUN):
        return dict(json.loads(state.manifest.read_text(encoding="utf-8")))
    digests = Digests(state.root)
    found = notebook_manifest(load_paper(state.paper, state.root), state.notebook, state.profile, seed, state.root, digests)
    digests.save()
    atomic_write(state.manifest, json.dumps(found, indent=0))
    return found


def run_notebook(root: Path, paper: str, notebook: str, profile: str, seed: int, timeout: float | None = None) -> int:
    """Run one notebook and store its results, or say why not; earlier results stay until better ones are complete.

    Args:
        timeout: wall seconds; default the notebook's limit in paper.toml.

    Returns:
        0 stored, 1 failed (the reason is printed and kept under ``.sheaf/failed``), 143 told to stop.

    Raises:
        SpecError, ValueError, FileNotFoundError: the paper, notebook, profile or shipped data cannot be used.
        PublishError: the results folder cannot be written.
    """
    spec = load_paper(paper, root)
    limit = timeout or float(spec.notebook(notebook).timeout)
    spec.settings(profile, notebook)
    state = State(root, profile, paper, notebook)
    try:
        require_intact(paper, root)
        return _run(state, seed, limit)
    except (ValueError, publish.PublishError, OSError) as error:
        with contextlib.suppress(OSError):  # the message itself is printed by the command line in any case
            _note_failure(state, Failure(str(error)))
        raise


def _run(state: State, seed: int, limit: float) -> int:
    root, profile, paper, notebook = state.root, state.profile, state.paper, state.notebook
    if os.environ.get(LAUNCHER) and not is_alive(os.environ[LAUNCHER]):
        raise SpecError(f"{paper}/{notebook} not started: the run that asked for it is gone")
    check_parameters(notebook_path(paper, notebook, root))
    for file in (state.done, state.failed, state.failed_notebook, state.heartbeat):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
    target, shown = results_dir(profile, paper, root), shown_results(profile, paper, root)
    publish.probe_writable(target, shown)
    manifest = _manifest(state, seed)
    list_fonts(root)

    shutil.rmtree(state.work, ignore_errors=True)
    (state.work / "results").mkdir(parents=True)
    started = time.time()
    _beat(state.heartbeat, event="start")
    sockets = _socket_folder()
    replace = {state.shown(state.work / "results"): shown}
    job = publish.Job(paper, notebook, state.work / "results", target, shown, root, replace)
    before = {number: signal.signal(number, _stop) for number in STOPS}
    try:
        failure = _failure(_execute(state, seed, limit, sockets), state, limit)
        for number in STOPS:  # storing takes a moment, and half of it would be a mixture of two runs
            signal.signal(number, signal.SIG_IGN)
        outputs: dict[str, str] = {}
        if failure is None:
            try:
                outputs = publish.publish(job, state.work / "executed.ipynb")
            except publish.PublishError as error:
                failure = Failure(str(error))
        if failure is not None:
            _write_failure(state, failure, job)
            _beat(state.heartbeat, event="failed")
            return 1
        facts = {"manifest": manifest, "outputs": outputs, "wall_s": round(time.time() - started, 2), "seed": seed}
        atomic_write(state.done, json.dumps(facts, indent=0))
        _beat(state.heartbeat, event="done")
        print(f"sheaf: {state.name} stored in {shown}, {facts['wall_s']:.0f} s", flush=True)
        return 0
    except _StopError as reason:
        _beat(state.heartbeat, event="stopped")
        print(f"sheaf: {state.name} stopped: {reason}; nothing of it was stored", flush=True)
        return 143
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _scrub_heartbeat(state)
        shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(state.work, ignore_errors=True)
