"""A run that is broken off at any file operation is completed by the same command, and is then as if nothing had happened."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import contents, differences, distinct, finished, injected, operations, processes_of, put_back, told, torn
from ledger import Promise
from toy_project import Toy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.promise(
        "crash-safety",
        "A run killed at any moment is completed by the same command: same bytes, no finished job done again, nothing left over.",
        "three notebooks of which one has to run. The tree that a run leaves at every file operation, opened files still "
        "empty, is completed (trees that differ in nothing a later run reads count once); SIGKILL is sent at operations "
        "spread over the run, in turn to all processes and to the one at work. Tables, figures and executed notebooks are "
        "compared byte for byte, records without times and cost",
    ),
]
CHANGED = "def count(rounds):\n    return rounds + 10\n"


@dataclass
class Crash:
    """A project in which one of three notebooks has to run, as it was, as it should become, and how to get there."""

    toy: Toy
    saved: Path
    before: dict[str, bytes]
    wanted: dict[str, bytes]
    scratch: Path  # where temporary files go, so that left ones are seen

    def run(self, **env: str) -> int:
        return self.toy.reproduce("--jobs", "1", TMPDIR=str(self.scratch), **env).returncode

    def complete(self) -> None:
        """See that nothing is torn, run the same command again, and see that all is as it should be."""
        found = torn(self.toy.root, self.before, self.wanted)
        assert not found, f"torn: {found}"
        old = finished(self.saved)
        kept = {n: body for n, body in finished(self.toy.root).items() if "toy_a" in n or body != old.get(n)}
        done = self.toy.reproduce("--jobs", "1", TMPDIR=str(self.scratch))
        assert done.returncode == 0, f"exit code {done.returncode}: {(done.stdout + done.stderr)[-400:]}"
        now = contents(self.toy.root)
        assert not differences(now, self.wanted), f"differs: {differences(now, self.wanted)}"
        again = [name for name, body in kept.items() if finished(self.toy.root).get(name) != body]
        assert not again, f"done again: {again}"
        assert not processes_of(self.toy.root), "a process is left"
        left = [p.name for pattern in ("sheaf-*", "*.json") for p in self.scratch.glob(pattern)]  # sockets, keys of kernels
        assert not left, f"left in the folder for temporary files: {left}"


@pytest.fixture(scope="module")
def whole(reproduced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crash]:
    """Made once for both tests, which share a process: making it takes two runs."""
    folder = tmp_path_factory.mktemp("crash")
    toy, saved = Toy(folder / "project"), folder / "saved"
    shutil.copytree(reproduced_once, toy.root, symlinks=True)
    put_back(toy.root, saved)
    before = contents(toy.root)
    toy.module("toy_b", "only", CHANGED)
    scratch = Path(tempfile.mkdtemp(prefix="crash-"))  # short: sockets are kept there
    made = Crash(toy, saved, before, {}, scratch)
    assert made.run() == 0
    made.wanted = contents(toy.root)
    assert len(differences(before, made.wanted)) >= 3, "the notebook changes what is stored"
    yield made
    shutil.rmtree(scratch)


@pytest.fixture
def crash(whole: Crash) -> Crash:
    """The project with what it had stored before the change, and the change."""
    put_back(whole.saved, whole.toy.root)
    return whole


def test_the_tree_of_every_file_operation_is_completed(promise: Promise, crash: Crash, tmp_path: Path) -> None:
    log = tmp_path / "copies"
    assert crash.run(**injected(crash.toy.root, log, "copy")) == 0
    trees = distinct(Path(f"{log}.d"))
    what = told(log)
    chosen = trees if promise.full else trees[4 :: max(1, len(trees) // 2)]
    for tree in chosen:
        put_back(tree, crash.toy.root)
        with promise.attempt(f"before operation {tree.name} ({what[int(tree.name)]})"):
            crash.complete()
    promise.figures |= {"file operations of the run": operations(log), "distinct trees": len(trees)}


def test_kill_9_at_operations_spread_over_the_run(promise: Promise, crash: Crash, tmp_path: Path) -> None:
    log = tmp_path / "counted"
    assert crash.run(**injected(crash.toy.root, log, "kill-run", 1 << 40)) == 0
    total, what = operations(log), told(log)
    put_back(crash.saved, crash.toy.root)
    points = promise.size(full=24, fast=1)
    for k in range(points):
        at, kind = 1 + k * total // points + (k % 5), ("kill-run", "kill-self")[k % 2]
        log = tmp_path / f"kill-{k}"
        with promise.attempt(f"{kind} at operation {at} of {total} ({what[at]})"):
            crash.run(**injected(crash.toy.root, log, kind, at))
            assert operations(log) >= at, "the operation was not reached"
            crash.complete()
        put_back(crash.saved, crash.toy.root)
    promise.figures["SIGKILLs of a small run"] = points
