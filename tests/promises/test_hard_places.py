"""Where runs are made: odd paths, locales and clocks, no room, no permission, another run at the same time."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import contents, differences, injected, operations, processes_of, put_back, torn
from ledger import Promise
from toy_project import Toy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.promise(
        "hard-places",
        "A run works in odd places or says in one sentence why it cannot; earlier results stay intact.",
        "paths with spaces, quotes and letters of other alphabets, locales C and tr_TR, time zone UTC+14, no writable home; "
        "full disks of many sizes, no permission, read-only folders and disks; a full disk, a used-up quota and a read-only "
        "disk simulated at file operations spread over a run; a clock set back during a run, files from the future; many "
        "runs started at once",
    ),
]
BUSY = 75
CHANGED = "def count(rounds):\n    return rounds + 7\n"
REASONS = {"ENOSPC": "No space left on device", "EDQUOT": "Disk quota exceeded", "EROFS": "Read-only file system"}
# root reads and writes everything; without its powers it is a user like others
ORDINARY = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@pytest.fixture(scope="module")
def wanted(reproduced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Contents before and after a run of the project as `stale` gives it."""
    toy = Toy(tmp_path_factory.mktemp("wanted") / "project")
    shutil.copytree(reproduced_once, toy.root, symlinks=True)
    before = contents(toy.root)
    toy.module("toy_b", "only", CHANGED)
    done = toy.reproduce()
    assert done.returncode == 0, done.stdout + done.stderr
    return before, contents(toy.root)


@pytest.fixture
def stale(reproduced: Toy, tmp_path: Path) -> Toy:
    """A project in which one of three notebooks has to run; what runs write is also in ``saved``."""
    put_back(reproduced.root, tmp_path / "saved")
    reproduced.module("toy_b", "only", CHANGED)
    return reproduced


def ordinary(toy: Toy, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """The command run by a user who may not write what its permissions forbid."""
    return subprocess.run(
        [*ORDINARY, *toy.command(*words)], cwd=toy.root, env=toy.env(**env), capture_output=True, text=True, timeout=300
    )


def explained(done: "subprocess.CompletedProcess[str]", reason: str) -> None:
    """The command failed, said why, and did not spill its insides."""
    told = done.stdout + done.stderr
    assert done.returncode == 1, f"exit code {done.returncode}: {told[-400:]}"
    assert reason in told, f"{reason!r} is not said: {told[-400:]}"
    assert "Traceback" not in told, told[-600:]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a file system of ``size`` bytes there, holding what the folder holds."""
    aside = folder.parent / "aside"
    shutil.copytree(folder, aside, symlinks=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        shutil.rmtree(aside)


def turkish(folder: Path) -> dict[str, str]:
    """A locale in which I and i are not the same letter, where the system can make one; else the plain one."""
    made = subprocess.run(["localedef", "-i", "tr_TR", "-f", "UTF-8", folder / "tr_TR.UTF-8"], capture_output=True)
    return {"LOCPATH": str(folder), "LC_ALL": "tr_TR.UTF-8"} if made.returncode == 0 else {"LC_ALL": "tr_TR.UTF-8"}


def test_odd_paths_locales_and_zones(promise: Promise, stale: Toy, wanted: tuple, tmp_path: Path) -> None:
    _, after = wanted
    locked = tmp_path / "locked home"
    locked.mkdir(mode=0o555)
    (tmp_path / "locales").mkdir()
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    places: dict[str, tuple[str, dict[str, str]]] = {
        "all at once": ("it's a {Düne} \"x\" Ж $HOME", ascii_only | {"TZ": "Pacific/Kiritimati", "HOME": str(locked)}),
        "locale tr_TR": ("toy", turkish(tmp_path / "locales")),
        "space, quote and letters": ("it's a {Düne} \"x\" Ж", {}),
        "locale C": ("toy", ascii_only),
        "time zone UTC+14": ("toy", {"TZ": "Pacific/Kiritimati"}),
        "home is not writable": ("toy", {"HOME": str(locked)}),
        "home does not exist": ("toy", {"HOME": "/nonexistent"}),
        "a leading dash, a percent sign, a line's end": ("-n %s\nx", {}),
    }
    for what in list(places)[: promise.size(full=len(places), fast=1)]:
        name, env = places[what]
        with promise.attempt(what):
            root = tmp_path / "place" / name
            shutil.copytree(stale.root, root, symlinks=True)
            toy = Toy(root)
            done = ordinary(toy, "reproduce", "--profile", "smoke", **env)
            assert done.returncode == 0, (done.stdout + done.stderr)[-600:]
            assert not differences(contents(root), after), differences(contents(root), after)
            again = ordinary(toy, "reproduce", "--profile", "smoke", **env)
            assert "nothing to run" in again.stdout, again.stdout + again.stderr
            stored = b"".join(p.read_bytes() for p in (root / "results").rglob("*") if p.is_file())
            assert name == "toy" or name.encode() not in stored, "the path is stored"
        shutil.rmtree(tmp_path / "place")


def test_no_room_simulated(promise: Promise, stale: Toy, wanted: tuple, tmp_path: Path) -> None:
    toy, (before, after) = stale, wanted
    saved = tmp_path / "saved"
    log = tmp_path / "counted"
    assert toy.reproduce(**injected(toy.root, log, "ENOSPC", 1 << 40)).returncode == 0
    total, points = operations(log), promise.size(full=15, fast=1)
    put_back(saved, toy.root)
    for k in range(points):
        at, error = 1 + k * total // points, list(REASONS)[k % len(REASONS)]
        with promise.attempt(f"{error} from operation {at} of {total} on"):
            done = toy.reproduce(**injected(toy.root, tmp_path / f"log-{k}", error, at))
            assert not torn(toy.root, before, after), torn(toy.root, before, after)
            if done.returncode or differences(contents(toy.root), after):
                explained(done, REASONS[error])
            assert not processes_of(toy.root), "a process is left"
            done = toy.reproduce()
            assert done.returncode == 0, (done.stdout + done.stderr)[-400:]
            assert not differences(contents(toy.root), after), differences(contents(toy.root), after)
        put_back(saved, toy.root)


@pytest.mark.skipif(os.environ.get("SHEAF_PROVE") != "1", reason="tests/artifact/test_run.py has one; make prove tries the rest")
def test_full_disks_of_many_sizes(promise: Promise, stale: Toy, wanted: tuple, tmp_path: Path) -> None:
    toy, (before, after) = stale, wanted
    used = sum((f.stat().st_size + 4095) // 4096 * 4096 for f in toy.root.rglob("*") if f.is_file())
    for k in range(8):
        room = (2 * k + 1) * 24 * 1024  # a run needs a few hundred KB, its page of the report most of them
        with small_disk(toy.root, used + room):
            _fill(toy.root, room)
            with promise.attempt(f"{room // 1024} KB left"):
                done = toy.reproduce()
                assert not torn(toy.root, before, after), torn(toy.root, before, after)
                if done.returncode or differences(contents(toy.root), after):
                    explained(done, REASONS["ENOSPC"])
                assert not processes_of(toy.root), "a process is left"
                (toy.root / "ballast").unlink()
                subprocess.run(["mount", "-o", f"remount,size={used + (64 << 20)}", toy.root], check=True)
                done = toy.reproduce()
                assert done.returncode == 0, (done.stdout + done.stderr)[-400:]
                assert not differences(contents(toy.root), after), differences(contents(toy.root), after)


def _fill(folder: Path, room: int) -> None:
    """Leave ``room`` bytes."""
    left = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "ballast").write_bytes(b"\0" * max(0, left - room))


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root cannot lay down its powers without setpriv")
def test_no_permission(promise: Promise, stale: Toy, wanted: tuple) -> None:
    toy, (before, _) = stale, wanted
    cases = ["results/smoke/toy_b", ".sheaf", "results", "notebooks/toy_b/01_only.ipynb", "notebooks/toy_b/paper.toml", "."]
    for name in cases[: promise.size(full=len(cases), fast=2)]:
        path = toy.root / name
        mode = path.stat().st_mode & 0o777
        locked = [path, *(p for p in path.rglob("*") if p.is_dir())] if path.is_dir() else [path]
        for folder in locked:
            folder.chmod(0o555 if path.is_dir() else 0)
        try:
            with promise.attempt(f"{name} without permission"):
                explained(ordinary(toy, "reproduce", "--profile", "smoke"), "Permission denied")
                assert not differences(contents(toy.root), before), differences(contents(toy.root), before)
                for command in ("status", "why"):
                    done = ordinary(toy, command, "--profile", "smoke")
                    assert "Traceback" not in done.stderr and (done.returncode == 0) == path.is_dir(), done.stderr
        finally:
            for folder in locked:
                folder.chmod(mode if folder == path else 0o755)


def test_a_read_only_disk(promise: Promise, stale: Toy, wanted: tuple) -> None:
    toy, (before, _) = stale, wanted
    with small_disk(toy.root, 64 << 20):
        subprocess.run(["mount", "-o", "remount,ro", toy.root], check=True)
        with promise.attempt("a disk that is mounted read-only"):
            explained(toy.reproduce(), REASONS["EROFS"])
            explained(toy.sheaf("run", "toy_b", "01_only", "--profile", "smoke"), REASONS["EROFS"])
            assert not differences(contents(toy.root), before)
            for command in ("status", "why"):
                done = toy.sheaf(command, "--profile", "smoke")
                assert done.returncode == 0 and "toy_b/01_only" in done.stdout, done.stderr


def test_clocks(promise: Promise, stale: Toy, wanted: tuple, tmp_path: Path) -> None:
    toy, (_, after) = stale, wanted
    hour = injected(toy.root, tmp_path / "log", "", 0) | {"FAULT_CLOCK": "3600"}
    if promise.full:
        with promise.attempt("the clock goes back an hour during a run"):
            done = toy.reproduce(**hour)
            assert done.returncode == 0, (done.stdout + done.stderr)[-600:]
            assert not differences(contents(toy.root), after) and "-" not in _times(done.stdout), done.stdout
    with promise.attempt("the clock goes back while a notebook fails"):
        toy.notebook("toy_b", "01_only", "raise KeyError('canary')")
        done = toy.reproduce(**hour)
        assert done.returncode == 1 and "failed: cell 3 (In [3]) raised KeyError: 'canary'" in done.stdout, done.stdout
        toy.good("toy_b", "01_only")
        assert toy.reproduce().returncode == 0
    with promise.attempt("files from the future, changed without a change of time or size"):
        future = time.time() + 3e7
        for file in toy.root.rglob("*"):
            if file.is_file() and file.name != "lock":
                os.utime(file, (future, future))
        assert "nothing to run" in toy.reproduce().stdout
        facts = toy.root / "data" / "toy_a" / "facts.csv"
        facts.write_text(facts.read_text().replace("2", "3"))
        os.utime(facts, (future, future))
        done = toy.reproduce(*([] if promise.full else ["--dry-run"]))
        assert "2 of 3 notebooks to run" in done.stdout and "facts.csv changed" in done.stdout, done.stdout
        assert not promise.full or "nothing to run" in toy.reproduce().stdout


def _times(text: str) -> str:
    """The times that stand after a state in the lines of a run."""
    return " ".join(line.split()[-1] for line in text.splitlines() if line.startswith("✔"))


def test_many_runs_at_once(promise: Promise, stale: Toy, wanted: tuple, tmp_path: Path) -> None:
    toy, (_, after) = stale, wanted
    saved = tmp_path / "saved"
    for number in range(promise.size(full=4, fast=1)):
        with promise.attempt(f"runs started at once, time {number + 1}"):
            runs = [toy.start("reproduce", "--profile", "smoke") for _ in range(promise.size(full=6, fast=2))]
            runs += [toy.start("run", "toy_b", "01_only", "--profile", "smoke") for _ in range(promise.size(full=2, fast=1))]
            told = [run.communicate(timeout=300)[0] for run in runs]
            codes = [run.returncode for run in runs]
            assert set(codes) <= {0, BUSY} and 0 in codes, f"{codes}: {told}"
            for code, text in zip(codes, told, strict=True):
                assert code == 0 or ("another run is at work" in text and "wait for it" in text), text
                assert "Traceback" not in text, text
            assert toy.reproduce().returncode == 0
            assert not differences(contents(toy.root), after), differences(contents(toy.root), after)
        put_back(saved, toy.root)
