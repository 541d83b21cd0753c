"""Start a group of processes under torchrun, collect what they record, and leave none of them behind."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

__all__ = ["Emit", "Hosts", "LaunchError", "launch", "run_worker"]

Emit = Callable[[dict[str, Any]], None]

_FOLDER, _STARTER, _RECORDS = "SHEAF_LAUNCH_DIR", "SHEAF_LAUNCH_PID", "SHEAF_LAUNCH_RECORDS"
_PEER_LOST = re.compile(r"connection (closed|reset|refused)|broken pipe|timed? ?out", re.IGNORECASE)
_POLL = 0.05  # seconds between looks at the group
_GRACE = 5.0  # seconds between asking the group to stop and killing it


class LaunchError(RuntimeError):
    """A group of processes failed or ran out of time; every process of it is gone.

    Attributes:
        records: what the group had recorded before.
        rank: the process at fault, None when unknown.
        detail: its traceback, or the end of the launcher's log.
    """

    def __init__(self, message: str, records: list[dict[str, Any]], rank: int | None = None, detail: str = "") -> None:
        super().__init__(f"{message}\n{detail}".rstrip())
        self.records, self.rank, self.detail = records, rank, detail


@dataclass(frozen=True)
class Hosts:
    """Places of their own for the processes of a group, such as network namespaces; rank i runs behind prefix i.

    Attributes:
        prefixes: a command line for each rank that runs the rest of its arguments in that place.
        address: of the first place, as all others reach it.
        interface: name of the network interface to use in each.
    """

    prefixes: tuple[tuple[str, ...], ...]
    address: str
    interface: str


def launch(
    worker: str | Path, payload: dict[str, Any], *, processes: int, timeout: float, records: Path | None = None,
    threads: int = 1, on_record: Emit | None = None, hosts: Hosts | None = None,
) -> list[dict[str, Any]]:
    """Run ``worker`` in ``processes`` processes on this machine and return what they emitted, in order.

    The group is started by ``python -m torch.distributed.run`` with a rendezvous on a port the system picks, so that
    several groups can start at once. The worker calls :func:`run_worker`.

    Args:
        worker: a module name, or the path of a script.
        payload: handed to every process; must survive JSON.
        processes: size of the group.
        timeout: seconds for the whole group, start included.
        records: file that emitted records are appended to as JSON lines, one at a time, so that a crash loses none;
            a temporary one when absent.
        threads: of torch and OpenMP in each process.
        on_record: called in this process with each record soon after it was emitted.
        hosts: run each process in a place of its own, under a torchrun of its own; None for this one, under one.

    Raises:
        ValueError: no process, no time, a payload JSON cannot hold, or another number of hosts than of processes.
        LaunchError: a process failed or time ran out; names the rank and holds its traceback.
    """
    if processes < 1 or timeout <= 0:
        raise ValueError(f"a group needs at least 1 process and a timeout above 0 s; got {processes} and {timeout}")
    if hosts is not None and len(hosts.prefixes) != processes:
        raise ValueError(f"{processes} processes need as many hosts; got {len(hosts.prefixes)}")
    try:
        text = json.dumps(payload)
    except TypeError as error:
        raise ValueError(f"the payload of a group must be plain JSON values: {error}") from error
    with tempfile.TemporaryDirectory(prefix="sheaf-group-") as name:
        folder = Path(name)
        (folder / "payload.json").write_text(text, encoding="utf-8")
        out = Path(records).resolve() if records else folder / "records.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
        tail = _Tail(out, on_record)
        target = [str(worker)] if isinstance(worker, Path) else ["-m", worker]
        commands = [[*head, *target] for head in _agents(processes, hosts)]
        environment = os.environ | {
            _FOLDER: str(folder), _STARTER: str(os.getpid()), _RECORDS: str(out),
            "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1",
        }
        if interface := hosts.interface if hosts else _loopback():
            environment.setdefault("GLOO_SOCKET_IFNAME", interface)
        with (folder / "log").open("wb") as log:
            agents: list[subprocess.Popen[bytes]] = []
            deadline = time.monotonic() + timeout
            try:
                for command in commands:
                    agents.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, env=environment,
                                                   stderr=subprocess.STDOUT, start_new_session=True))
                while not _over(agents) and time.monotonic() < deadline:
                    tail.read()
                    time.sleep(_POLL)
                late = not _over(agents)
            finally:
                _stop(agents)
        tail.read()
        if late:
            raise LaunchError(f"{processes} processes of {worker} did not finish within {timeout:g} s and were stopped "
                              f"after {len(tail.found)} records; allow more time or ask for less work", tail.found)
        if any(agent.returncode for agent in agents):
            rank, why, detail = _blame(folder)
            whom = f"rank {rank}" if rank is not None else "one"
            raise LaunchError(f"{whom} of {processes} processes of {worker} failed after {len(tail.found)} records "
                              f"({why}); the others were stopped", tail.found, rank, detail)
        return tail.found


def run_worker(main: Callable[[dict[str, Any], Path, Emit], None], *, message_timeout: float = 120.0) -> None:
    """The body of a worker process: join the gloo group, call ``main(payload, folder, emit)``, report, exit.

    Args:
        main: ``folder`` is shared by the group and read by nobody else; ``emit`` appends one record, from any rank.
        message_timeout: seconds after which a message that never comes is an error.

    Raises:
        RuntimeError: the process was not started by :func:`launch`.
    """
    if _FOLDER not in os.environ:
        raise RuntimeError("this module is the worker of a process group; start it through sheaf.common.launch.launch")
    folder, rank = Path(os.environ[_FOLDER]), int(os.environ["RANK"])
    threading.Thread(target=_leave_with, args=(os.getppid(), int(os.environ[_STARTER])), daemon=True).start()
    try:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        dist.init_process_group("gloo", timeout=timedelta(seconds=message_timeout))
        main(json.loads((folder / "payload.json").read_text(encoding="utf-8")), folder, _emit)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException as error:
        report = {"rank": rank, "time": time.monotonic(), "error": f"{type(error).__name__}: {error}",
                  "traceback": traceback.format_exc()}
        (folder / f"error-{rank}.json").write_text(json.dumps(report), encoding="utf-8")
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; taking the interpreter down in many processes at once costs seconds


def _emit(record: dict[str, Any]) -> None:
    line = (json.dumps(record) + "\n").encode()
    handle = os.open(os.environ[_RECORDS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)  # one write of an appending handle: lines of several ranks never mix
    finally:
        os.close(handle)


def _leave_with(parent: int, starter: int) -> None:
    """End this process when the agent or the process that asked for the group is gone, however it ended."""
    while True:
        time.sleep(0.5)
        try:
            os.kill(starter, 0)
        except ProcessLookupError:
            os._exit(3)
        except PermissionError:
            pass  # it lives, under another user
        if os.getppid() != parent:
            os._exit(3)


def _agents(processes: int, hosts: Hosts | None) -> list[list[str]]:
    """The torchrun command lines of a group: one with a port the system picks, or one behind each host's prefix."""
    run = [sys.executable, "-m", "torch.distributed.run", "--max-restarts=0"]
    if hosts is None:
        return [[*run, "--nnodes=1", f"--nproc-per-node={processes}", "--rdzv-backend=c10d",
                 "--rdzv-endpoint=127.0.0.1:0"]]
    # a network of the group's own has every port free
    return [[*prefix, *run, f"--nnodes={processes}", "--nproc-per-node=1", f"--node-rank={i}",
             f"--master-addr={hosts.address}", "--master-port=29500"] for i, prefix in enumerate(hosts.prefixes)]


def _over(agents: list[subprocess.Popen[bytes]]) -> bool:
    """All have ended, or one of them badly."""
    codes = [agent.poll() for agent in agents]
    return any(codes) or None not in codes


def _stop(agents: list[subprocess.Popen[bytes]]) -> None:
    """Stop the agents and their workers, which torchrun starts in sessions of their own."""
    import psutil

    workers = []
    for agent in agents:
        try:
            workers += psutil.Process(agent.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            continue
    running = [agent for agent in agents if agent.poll() is None]
    for agent in running:
        agent.terminate()
    deadline = time.monotonic() + _GRACE
    for agent in running:
        try:
            agent.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
    for process in workers:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(workers, timeout=_GRACE)


def _blame(folder: Path) -> tuple[int | None, str, str]:
    """The rank at fault, one phrase on why, and the detail: the first error of its own, not of peers it took along."""
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    root = log[log.find("Root Cause"):] if "Root Cause" in log else ""
    named = re.search(r"rank\s*:\s*(\d+)", root)
    ended = re.search(r"exitcode\s*:\s*(-?\d+)", root)
    if named and ended and int(ended[1]) < 0:
        return int(named[1]), f"killed by signal {-int(ended[1])}", ""
    reports = [json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("error-*.json")]
    reports.sort(key=lambda r: (bool(_PEER_LOST.search(r["error"])), r["time"]))
    if reports:
        first = reports[0]
        return first["rank"], first["error"].splitlines()[0], first["traceback"]
    rank = int(named[1]) if named else None
    return rank, f"exit code {ended[1]}" if ended else "the launcher ended early", log[-2000:]


def _loopback() -> str | None:
    """Name of the loopback interface, so that gloo needs no working host name; None where it has another name."""
    names = {name for _, name in socket.if_nameindex()} if hasattr(socket, "if_nameindex") else set()
    return next((name for name in ("lo", "lo0") if name in names), None)


class _Tail:
    """Reads whole lines as they are appended to a file."""

    def __init__(self, path: Path, on_record: Emit | None) -> None:
        self.path, self.on_record, self.found, self.at = path, on_record, list[dict[str, Any]](), path.stat().st_size

    def read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self.at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            self.found.append(record)
            if self.on_record:
                self.on_record(record)
