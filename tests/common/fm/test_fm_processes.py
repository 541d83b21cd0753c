"""Several processes on one cache, and a process that is killed half-way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sheaf.common.fm import Cache, Reply, Request
from sheaf.common.fm.fake_server import last_text

WORKER = """
import sys
from pathlib import Path
from sheaf.common.fm import Budget, Client, Reply, Request
url, folder, first, last, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
with Client("m", url, cache=folder, concurrency=4, budget=Budget(max_requests=limit)) as client:
    replies = client.map([Request("", [f"q{i}"]) for i in range(first, last)])
    print(sum(isinstance(r, Reply) and r.text == f"Q{i}" for i, r in enumerate(replies, first)), client.counters.sent)
"""


def start(url: str, folder: Path, first: int, last: int, limit: int = 10**6) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, url, str(folder), str(first), str(last), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answer(body: dict) -> str:
    return last_text(body).upper()


def test_processes_share_a_cache_and_pay_each_request_once(serve: Callable, tmp_path: Path) -> None:
    server = serve(answer, latency=0.01)
    jobs = [start(server.url, tmp_path, first, first + 60) for first in (0, 20, 40)]
    results = [job.communicate(timeout=60)[0].split() for job in jobs]
    assert [int(right) for right, _ in results] == [60, 60, 60]
    assert len(server.answered) == 100 and set(server.answered.values()) == {1}
    assert sum(int(sent) for _, sent in results) == 100 == len(Cache(tmp_path))


def test_a_budget_holds_over_processes(serve: Callable, tmp_path: Path) -> None:
    server = serve(answer, latency=0.005)
    jobs = [start(server.url, tmp_path, first, first + 30, limit=40) for first in (0, 100)]
    for job in jobs:
        job.communicate(timeout=60)
    assert sum(server.answered.values()) == 40


def test_after_kill_only_what_is_missing_is_paid(serve: Callable, connect: Callable, tmp_path: Path) -> None:
    server = serve(answer, latency=0.02)
    folder = tmp_path / "cache"
    job = start(server.url, folder, 0, 200)
    while sum(server.answered.values()) < 60:
        assert job.poll() is None
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    job.stdout.close()
    stored = len(Cache(folder))
    assert 50 <= stored < 200
    assert sum(server.answered.values()) - stored <= 4  # what was under way when it was killed
    sent_before = len(server.bodies)
    client = connect(server, concurrency=4)
    replies = client.map([Request("", [f"q{i}"]) for i in range(200)])
    assert [r.text for r in replies if isinstance(r, Reply)] == [f"Q{i}" for i in range(200)]
    assert sum(r.cached for r in replies) == stored
    assert len(server.bodies) - sent_before == 200 - stored
    assert sum(count > 1 for count in server.answered.values()) <= 4  # only what was under way
    assert client.spent().requests >= sum(server.answered.values())  # the ledger does not forget what may have been paid
