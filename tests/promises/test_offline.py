"""Offline: real papers at smoke size, on a machine that has loopback and nothing else, with every attempt to leave it counted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from drive import REPO, at
from ledger import Promise

pytestmark = [
    pytest.mark.promise(
        "offline", "A smoke run needs no network and does not ask for one.",
        "real papers in a network namespace with loopback alone, and a guard in every Python process that notes each "
        "address looked up or connected to elsewhere",
    ),
    pytest.mark.netns,
    pytest.mark.slow,
]  # fmt: skip
NOWHERE = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
FULL = ("decentralized", "wonderbread", "pixelfly")
GUARD = """
import os, sys

HERE = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None}

def _host(event, args):
    if event == "socket.getaddrinfo" or event == "socket.gethostbyname":
        return args[0]
    if event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        return args[1][0]
    return None

def _guard(event, args):
    host = _host(event, args) if event.startswith("socket.") else None
    host = host.decode() if isinstance(host, bytes) else host
    if host in HERE or host.startswith("127.") or host == os.uname().nodename:
        return
    with open(os.environ["OFFLINE_LOG"], "a") as out:
        out.write(f"{event} {host} by {' '.join(sys.argv)[:200]}\\n")

sys.addaudithook(_guard)
"""


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    tried = (
        subprocess.run([*NOWHERE, "true"], capture_output=True, text=True, check=False)
        if shutil.which("unshare")
        else None
    )
    if tried is None or tried.returncode:
        pytest.skip(f"no network namespaces here: {tried.stderr.strip() if tried else 'unshare is not installed'}")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of this repository without its results."""
    root = tmp_path / "project"
    for part in ("lib", "kernels", "notebooks", "data", "build"):
        if (REPO / part).is_dir():
            shutil.copytree(REPO / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "external"))
    for part in ("Snakefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPO / part, root)
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    return root


def run(root: Path, command: list[str], timeout: float) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A command where there is no network, and the attempts to reach one."""
    log = root.parent / "attempts"
    log.write_text("")
    with at(root):
        paths = [str(root.parent / "guard"), str(root / "lib"), str(root / "kernels")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OFFLINE_LOG": str(log)}
    done = subprocess.run(
        [*NOWHERE, sys.executable, *command],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done, log.read_text().splitlines()


def test_the_guard_sees_who_leaves(promise: Promise, project: Path) -> None:
    leave = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.create_connection(({!r}, 80), 1)"
    for host, seen in (
        ("192.0.2.1", True),
        ("example.org", True),
        ("2001:db8::1", True),
        ("127.0.0.1", False),
        ("localhost", False),
    ):
        _, attempts = run(project, ["-c", leave.format(host)], 60)
        promise.trial(bool(attempts) == seen, f"an attempt to reach {host}: {attempts}")


def test_papers_run_without_a_network(promise: Promise, project: Path) -> None:
    if not promise.full:
        done, attempts = run(project, ["-m", "sheaf", "run", "dejavu", "01_cost_model", "--profile", "smoke"], 240)
        promise.trial(
            done.returncode == 0 and not attempts, f"dejavu: {attempts[:3]} {done.stdout[-500:]}{done.stderr[-300:]}"
        )
        return
    done, attempts = run(
        project, ["-m", "sheaf", "reproduce", "--profile", "smoke", "--papers", " ".join(FULL), "--jobs", "2"], 1500
    )
    for paper in FULL:
        for notebook in sorted((project / "notebooks" / paper).glob("*.ipynb")):
            kept = project / "results/smoke" / paper / "notebooks" / notebook.name
            promise.trial(kept.is_file(), f"{paper}/{notebook.stem} did not run: {done.stdout[-800:]}")
    promise.trial(done.returncode == 0 and not attempts, f"exit {done.returncode}, attempts {attempts[:5]}")
    promise.figures["connection attempts"] = len(attempts)
