"""A kernel that dies, and one that hangs: reported with its cell, ended in time, nothing left running."""

import json
import re
from pathlib import Path

import pytest
from faults import processes_of
from ledger import Promise
from toy_project import Toy, build

pytestmark = pytest.mark.slow

NAME = "01_only"
CODE_CELLS = 10
WITHIN = 10.0  # seconds from death to report
GRACE = 5.0  # seconds from the limit to the end of all processes
DEATHS = {
    "sigkill": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "sigsegv": "import ctypes\nctypes.string_at(0)",
    "out_of_memory": (
        "import resource\nroom = int(open('/proc/self/statm').read().split()[0]) * 4096 + (200 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (room, room))\nheld = []\nwhile True:\n    held.append(bytearray(1 << 22))"
    ),
    "os_exit": "import os\nos._exit(0)",
    "sys_exit": "import sys\nsys.exit(0)",
}
HANGS = {
    "endless_loop": "while True:\n    pass",
    "blocked_stdin": "import subprocess\nsubprocess.Popen(['cat'], stdin=subprocess.PIPE).wait()",
    "child_holds_pipe": (  # a daemon that took off every mark of where it came from, and writes where its parent wrote
        "import subprocess, time\nsubprocess.Popen('setsid sh -c \"sleep 98764 & sleep 98765\" &', shell=True, env={})\n"
        "while True:\n    time.sleep(1)"
    ),
    "deadlocked_thread": (
        "import threading\nlock = threading.Lock()\nlock.acquire()\nthread = threading.Thread(target=lock.acquire)\n"
        "thread.start()\nthread.join()"
    ),
    "deaf_to_signals": (
        "import signal, time\nfor number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
        "    signal.signal(number, signal.SIG_IGN)\nwhile True:\n    time.sleep(1)"
    ),
    "stopped_kernel": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "blocked_read": "import os\nread, write = os.pipe()\nos.read(read, 1)",
    "waiting_for_children": "import subprocess\nsubprocess.run('sleep 98766 | sleep 98767', shell=True, start_new_session=True)",
}
OPEN = """from sheaf import Study
study = Study("{id}", notebook="01_only", profile=profile, seed=seed, results_dir=results_dir)"""


def write_paper(toy: Toy, paper: str, place: int, code: str, timeout: int) -> None:
    """A paper of one notebook, a title and ten code cells, of which number ``place`` (from 1) ends with ``code``."""
    study = OPEN.format(id=paper)
    table = 'import pandas as pd\nstudy.table("T01", pd.DataFrame({"count": [value]}))'
    counting = ["value = 1", *["value += 1"] * 4]
    path = toy.notebook(paper, NAME, *counting, study, table, 'study.claim("C01", [value])', "study.verdicts()")
    nb = json.loads(path.read_text())
    assert len(nb["cells"]) == CODE_CELLS + 1
    nb["cells"][place]["source"] += ["\n", *code.splitlines(keepends=True)]
    path.write_text(json.dumps(nb))
    toy.paper(paper, [NAME], timeout=timeout)


def failure(toy: Toy, paper: str) -> tuple[dict, float]:
    """What is kept of a failed notebook, and when it was written."""
    file = toy.root / ".sheaf" / "failed" / "smoke" / paper / f"{NAME}.json"
    return json.loads(file.read_text()), file.stat().st_mtime


def stored(toy: Toy, paper: str) -> list[str]:
    return [p.name for p in toy.results(paper).rglob("*") if p.is_file() and p.name != "record.json"]


@pytest.mark.promise(
    "kernel-death",
    "A notebook whose kernel dies is reported as failed, with the cell, within ten seconds; nothing of it is stored.",
    "SIGKILL, SIGSEGV, running out of memory, os._exit(0) and sys.exit(0) at the end of each cell of a ten-cell notebook, "
    "in one `reproduce` beside a sound notebook",
)
def test_every_death_in_every_cell_is_reported(promise: Promise, tmp_path: Path) -> None:
    toy = build(tmp_path / "project")
    every = [(kind, place) for place in range(1, CODE_CELLS + 1) for kind in DEATHS]
    cases = every if promise.full else [*every[:: len(DEATHS) * 3 + 1], ("sys_exit", CODE_CELLS)]  # each kind, cells spread
    for kind, place in cases:
        note = "import pathlib, time\npathlib.Path('died.txt').write_text(str(time.time()))\n"
        write_paper(toy, f"{kind}_{place}", place, note + DEATHS[kind], timeout=300)
    papers = [f"{kind}_{place}" for kind, place in cases]
    done = toy.sheaf("reproduce", "--profile", "smoke", "--jobs", "3", "toy_b", *papers, timeout=1200)
    slowest = 0.0
    for (kind, place), paper in zip(cases, papers, strict=True):
        with promise.attempt(f"{kind} in code cell {place}"):
            facts, when = failure(toy, paper)
            died = float((toy.root / "notebooks" / paper / "died.txt").read_text())
            slowest = max(slowest, when - died)
            assert re.search(rf"\bcell {place + 1}\b", facts["why"]), f"the cell is {place + 1}, reported: {facts['why']}"
            assert f"✘ {paper}/{NAME} failed: {facts['why']}" in done.stdout, "not said on the terminal"
            assert when - died <= WITHIN, f"reported {when - died:.1f} s after it died"
            assert not toy.done(paper, NAME).exists() and not stored(toy, paper), "something of it was stored"
    promise.trial(done.returncode == 1 and toy.done("toy_b", NAME).is_file(), "the sound notebook beside them was not stored")
    promise.trial(not processes_of(toy.root), "a process is left")
    promise.figures["slowest report after a death, s"] = round(slowest, 2)


@pytest.mark.promise(
    "hang",
    "A notebook that hangs is ended at its limit, within five seconds, and none of its processes is left.",
    "an endless loop, blocked input, deadlocked threads, a stopped kernel, one deaf to signals, daemons that hold the pipe "
    "and hide their origin",
)
def test_every_hang_is_ended_at_its_limit(promise: Promise, tmp_path: Path) -> None:
    toy = build(tmp_path / "project")
    limit, place = 20, 4
    cases = list(HANGS)[: promise.size(full=len(HANGS), fast=4)]
    for kind in cases:
        write_paper(toy, kind, place, HANGS[kind], timeout=limit)
    done = toy.sheaf("reproduce", "--profile", "smoke", "--jobs", "4", *cases, timeout=600)
    slowest = 0.0
    for kind in cases:
        with promise.attempt(kind):
            facts, when = failure(toy, kind)
            beats = (toy.root / ".sheaf" / "heartbeat" / "smoke" / kind / f"{NAME}.jsonl").read_text().splitlines()
            late = when - json.loads(beats[0])["t"] - limit
            slowest = max(slowest, late)
            assert f"stopped at its limit of {limit} s while cell {place + 1}" in facts["why"], facts["why"]
            assert late <= GRACE, f"ended {late:.1f} s after its limit"
            assert f"✘ {kind}/{NAME} failed" in done.stdout and not stored(toy, kind)
    left = processes_of(toy.root) + [p for p in map(_sleeper, range(98764, 98768)) if p]
    promise.trial(not left, f"left running: {left}")
    promise.figures["slowest end after the limit, s"] = round(slowest, 2)


def _sleeper(seconds: int) -> object:
    """A process that sleeps that long, for those that no longer name the project."""
    import psutil

    for process in psutil.process_iter(["cmdline", "status"]):
        if str(seconds) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            return process
    return None
