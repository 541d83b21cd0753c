"""Building kernels: no compiler, a broken one, a killed one, what makes a rebuild, and one OpenMP runtime in a process."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sheaf_kernels import build

ROOT = Path(__file__).resolve().parents[2]
OP = "placement"
USE = """
import torch, warnings
from sheaf_kernels import placement
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    w = 1 - torch.eye(4, dtype=torch.float64)
    print(placement.evaluate(w, w, torch.tensor([[0, 0, 1, 1]]), 2).tolist())
    placement.evaluate(w, w, torch.tensor([[0, 0, 1, 1]]), 2)
print(*(str(s.message) for s in said), sep="\\n")
"""
needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here; install g++")


def python(*arguments: str, build_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'kernels'}", "SHEAF_BUILD": str(build_dir), **environment},
    )  # fmt: skip


def fake_compiler(folder: Path, script: str) -> Path:
    """An executable called g++ that runs a few lines of shell."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "g++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# a compiler that notes every call and writes a file where it is told to
RECORDING = 'echo "$@" >> "$CALLS"; while [ "$1" != -o ]; do shift; done; echo made > "$2"'


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Builds go to tmp_path/out through a compiler that only notes its arguments in this file."""
    noted = tmp_path / "calls"
    noted.touch()
    monkeypatch.setenv("CALLS", str(noted))
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path / "bin", RECORDING)))
    monkeypatch.setenv("SHEAF_BUILD", str(tmp_path / "out"))
    return noted


def visible(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if not f.name.startswith("."))


# -------------------------------------------------------------------------------------------------------- no compiler
@pytest.mark.parametrize("environment", [{"CXX": "no-such-compiler"}, {"CXX": "", "PATH": "/nowhere"}], ids=["CXX", "PATH"])
def test_without_a_compiler_the_reference_is_used(tmp_path: Path, environment: dict[str, str]) -> None:
    built = python("-m", "sheaf_kernels.build", build_dir=tmp_path, **environment)
    assert built.returncode == 0, built.stderr
    reason = "no C++ compiler (install g++ or set CXX); the plain reference will be used"
    assert built.stdout == "".join(f"{op}: {reason}\n" for op in build.operations())
    assert built.stderr == ""
    used = python("-c", USE, build_dir=tmp_path, **environment)
    assert used.returncode == 0, used.stderr
    value, *said = used.stdout.strip().split("\n")
    assert value == "[[1.0, 2.0, 1.0, 2.0]]"
    assert said == [  # once, though two calls were made
        "placement runs on its slow reference: no C++ compiler (install g++ or set CXX); the plain reference will be used"
    ]


def test_an_operation_that_was_never_built_says_how_to_build_it(tmp_path: Path) -> None:
    used = python("-c", USE, build_dir=tmp_path)
    assert used.stdout.strip().split("\n")[1:] == ["placement runs on its slow reference: not built yet (run `make kernels`)"]


def test_a_compiler_that_arrives_later_is_used(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.build(OP)[0] is None
    monkeypatch.setenv("CXX", str(tmp_path / "bin" / "g++"))
    path, said = build.build(OP)
    assert path == build.library(OP)
    assert said.startswith("compiled in")
    assert visible(tmp_path / "out") == [path.name]


# ----------------------------------------------------------------------------------------------------- broken compiler
def test_a_broken_compiler_is_reported_with_its_log(tmp_path: Path) -> None:
    broken = fake_compiler(tmp_path / "bin", "echo 'cpu.cpp:1: error: the moon is in the wrong phase' >&2; exit 4")
    built = python("-m", "sheaf_kernels.build", OP, build_dir=tmp_path / "out", CXX=str(broken))
    assert built.returncode == 1
    assert built.stdout == (
        "placement: g++ failed on placement/cpu.cpp:\ncpu.cpp:1: error: the moon is in the wrong phase\n"
    )
    assert "Traceback" not in built.stderr
    assert visible(tmp_path / "out") == []


def test_a_linker_that_fails_leaves_no_library(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = fake_compiler(tmp_path / "other", f'case "$*" in *-shared*) echo half > op.so; exit 1;; esac; {RECORDING}')
    monkeypatch.setenv("CXX", str(fails))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(build.BuildError, match=r"failed on placement/cpu\.cpp"):
        build.build(OP)
    assert visible(tmp_path / "out") == []


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    built = python("-m", "sheaf_kernels.build", "teleport", build_dir=tmp_path)
    assert built.returncode == 1
    assert built.stdout == f"teleport: 'teleport' is no compiled operation; there are {', '.join(build.operations())}\n"


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    built = python("-m", "sheaf_kernels.build", OP, build_dir=tmp_path / "file" / "below")
    assert built.returncode == 1
    assert built.stdout.count("\n") == 1
    assert "Traceback" not in built.stderr


# ------------------------------------------------------------------------------------------------------------ rebuilds
def test_only_what_changed_is_built_again(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "package"
    shutil.copytree(build.PACKAGE / OP, copy / OP, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "PACKAGE", copy)
    first, _ = build.build(OP)
    after_first = calls.read_text()
    assert len(after_first.splitlines()) == 2  # compile, link
    assert build.build(OP) == (first, "up to date")
    for source in copy.rglob("*"):
        os.utime(source)  # a checkout touches files without changing them
    (copy / OP / "reference.py").write_text("# the reference is not compiled")
    assert build.build(OP) == (first, "up to date")
    assert calls.read_text() == after_first

    with (copy / OP / "search.h").open("a") as header:
        header.write("\n// changed\n")
    second, said = build.build(OP)
    assert said.startswith("compiled in")
    assert second != first
    assert visible(tmp_path / "out") == [second.name]  # the old one is gone

    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    third, said = build.build(OP)
    assert said.startswith("compiled in")
    assert third not in (first, second)
    assert "-g" in calls.read_text().splitlines()[-2].split()

    monkeypatch.setattr(torch, "__version__", "99.0")
    assert build.library(OP) != third


def test_a_header_of_another_operation_counts_as_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for op in ("gather_mlp", "gather_heads"):
        shutil.copytree(build.PACKAGE / op, tmp_path / op, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "PACKAGE", tmp_path)
    before = build.library("gather_heads")
    with (tmp_path / "gather_mlp" / "rows.h").open("a") as header:
        header.write("\n// changed\n")
    assert build.library("gather_heads") != before


def test_a_build_cleans_up_after_one_that_was_killed(calls: Path, tmp_path: Path) -> None:
    left = tmp_path / "out" / ".placement-abc123"
    left.mkdir(parents=True)
    (left / "op.so").write_text("half")
    path, _ = build.build(OP)
    assert not left.exists()
    assert path.read_text() == "made\n"


def test_builds_at_the_same_time_compile_once(tmp_path: Path, calls: Path) -> None:
    slow = fake_compiler(tmp_path / "slow", f"sleep 0.5; {RECORDING}")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'kernels'}", "CXX": str(slow)}
    at_once = [
        subprocess.Popen([sys.executable, "-m", "sheaf_kernels.build", OP], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = sorted(p.communicate(timeout=120)[0].split(": ")[1].split(" in ")[0].strip() for p in at_once)
    assert [p.returncode for p in at_once] == [0, 0, 0]
    assert said == ["compiled", "up to date", "up to date"]
    assert len(calls.read_text().splitlines()) == 2


# -------------------------------------------------------------------------------------------------- the real compiler
@needs_compiler
@pytest.mark.slow
def test_a_killed_build_is_done_again(tmp_path: Path) -> None:
    """Killed with the compiler at work: no lock stays, no half library; the next build compiles and its library loads."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'kernels'}", "SHEAF_BUILD": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "sheaf_kernels.build", OP], env=environment, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob(f".{OP}-*")):
        assert time.monotonic() < deadline, "the build never began"
        assert process.poll() is None, "the build ended before it could be killed"
        time.sleep(0.02)
    time.sleep(0.3)  # the compiler is running
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(tmp_path.glob("*.so")) == []

    again = python("-m", "sheaf_kernels.build", OP, build_dir=tmp_path)
    assert again.returncode == 0, again.stdout
    assert again.stdout.startswith("placement: compiled in")
    assert [f.suffix for f in tmp_path.iterdir() if not f.name.startswith(".")] == [".so"]
    assert not [f for f in tmp_path.glob(f".{OP}-*") if f.is_dir()]
    used = python("-c", USE, build_dir=tmp_path)
    assert used.stdout.strip() == "[[1.0, 2.0, 1.0, 2.0]]", "no warning: the compiled kernel ran"


@pytest.mark.skipif(not build.library(OP).is_file(), reason="the placement kernel is not built; run `make kernels`")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not list what is mapped")
def test_torchs_own_openmp_is_the_only_one() -> None:
    script = f"""
import re, torch
def mapped():
    return set(re.findall(r"\\S*/lib(?:gomp|iomp5|omp)[-.]\\S*", open("/proc/self/maps").read()))
torch.ones(100_000).sum()
before = mapped()
{USE}
assert "{OP}-" in open("/proc/self/maps").read(), "the library is not loaded"
assert before and mapped() == before, (before, mapped())
"""
    done = python("-c", script, build_dir=build.build_dir())
    assert done.returncode == 0, done.stderr
