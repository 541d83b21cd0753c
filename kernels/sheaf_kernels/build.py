"""Compile every operation's cpu.cpp once, into build/kernels, and load what was compiled.

``python -m sheaf_kernels.build [op ...]`` is the only place where a compiler runs; importing an operation never builds.
A library is named after the digest of its sources, flags and torch version, written under a temporary name and renamed.
A build that was killed leaves no lock (the system drops an flock with its owner) and no file under a final name.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

__all__ = ["BuildError", "available", "build", "build_dir", "compiler", "library", "main", "operations"]

PACKAGE = Path(__file__).resolve().parent
# no contraction into fused multiply-adds: the reference must give the same bits on every processor
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-ffp-contract=off", "-w")
_said: set[str] = set()


class BuildError(RuntimeError):
    """The compiler was found but refused the source; carries its output."""


def operations() -> list[str]:
    """Names of the operations that have a compiled form."""
    return sorted(p.parent.name for p in PACKAGE.glob("*/cpu.cpp"))


def build_dir() -> Path:
    """Where libraries go: ``SHEAF_BUILD``, else build/kernels beside the folder that holds this package."""
    if named := os.environ.get("SHEAF_BUILD"):
        return Path(named).expanduser().resolve()
    return PACKAGE.parents[1] / "build" / "kernels"


def compiler() -> str | None:
    """Path of the C++ compiler: ``CXX`` when set, else g++, c++ or clang++; None when there is none."""
    if named := os.environ.get("CXX"):
        return shutil.which(named)
    return next((found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))), None)


@cache
def _processor() -> str:
    """What -march=native depends on, so that machines that share a checkout do not share libraries by mistake."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _sources(op: str) -> list[Path]:
    """The C++ files of ``op``, and the headers of other operations that they include as "../other/file.h"."""
    own = sorted(path for path in (PACKAGE / op).glob("*") if path.suffix in (".cpp", ".h"))
    shared = {PACKAGE / named for path in own for named in re.findall(r'^#include "\.\./(.+?)"', path.read_text(), re.M)}
    return [*own, *sorted(shared)]


def library(op: str) -> Path:
    """The file that the library of ``op`` has once built; changes with sources, flags, processor and torch version.

    Raises:
        ValueError: ``op`` has no compiled form.
    """
    if op not in operations():
        raise ValueError(f"{op!r} is no compiled operation; there are {', '.join(operations())}")
    digest = hashlib.sha256(f"{torch.__version__} {' '.join(FLAGS)} {_processor()}".encode())
    for path in _sources(op):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return build_dir() / f"{op}-{digest.hexdigest()[:16]}.so"


def _why_not(target: Path) -> Path:
    return target.with_suffix(".reference")  # holds the reason why the reference is used


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _commands(op: str, cxx: str, work: Path) -> list[list[str]]:
    home = Path(torch.__file__).parent
    include, libs = home / "include", home / "lib"
    # torch's own OpenMP runtime is linked by file: a second one in the process would start its own threads
    gomp = sorted([*libs.glob("libgomp*.so*"), *(home.parent / "torch.libs").glob("libgomp*.so*")])
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    compile_ = [
        cxx, *FLAGS, abi, *(["-fopenmp"] if gomp else []), f"-I{include}", f"-I{include}/torch/csrc/api/include",
        "-c", str(PACKAGE / op / "cpu.cpp"), "-o", str(work / "cpu.o"),
    ]
    link = [
        cxx, "-shared", str(work / "cpu.o"), "-o", str(work / "op.so"), f"-L{libs}", "-ltorch_cpu", "-lc10", "-ltorch",
        *(str(g) for g in gomp[:1]),
    ]
    return [compile_, link]


def build(op: str) -> tuple[Path | None, str]:
    """Compile ``op`` unless that is done; returns the library, or None without a compiler, and a sentence on what happened.

    Raises:
        BuildError: the compiler failed.
        OSError: the build folder cannot be written.
    """
    target = library(op)
    if target.is_file():
        return target, "up to date"
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.parent / f".{op}.lock"):
        if target.is_file():
            return target, "up to date"
        if (cxx := compiler()) is None:
            reason = "no C++ compiler (install g++ or set CXX); the plain reference will be used"
            _why_not(target).write_text(reason)
            return None, reason
        for left in target.parent.glob(f".{op}-*"):  # of a build that was killed; the lock says nobody is at work
            shutil.rmtree(left, ignore_errors=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f".{op}-", dir=target.parent) as work:
            for command in _commands(op, cxx, Path(work)):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise BuildError(f"{Path(cxx).name} failed on {op}/cpu.cpp:\n{done.stderr.strip()[:3000]}")
            (Path(work) / "op.so").replace(target)
        _why_not(target).unlink(missing_ok=True)
        for old in target.parent.glob(f"{op}-*"):
            if old.stem != target.stem:
                old.unlink(missing_ok=True)
        return target, f"compiled in {time.monotonic() - began:.0f} s"


@cache
def _load(target: Path) -> None:
    torch.ops.load_library(str(target))


def available(op: str) -> bool:
    """Load the compiled form of ``op``; False when it was not built, which is said once, as a warning."""
    target = library(op)
    if target.is_file():
        _load(target)
        return True
    if op not in _said:
        _said.add(op)
        marker = _why_not(target)
        reason = marker.read_text() if marker.is_file() else "not built yet (run `make kernels`)"
        warnings.warn(f"{op} runs on its slow reference: {reason}", RuntimeWarning, stacklevel=3)
    return False


def main(names: Sequence[str] | None = None) -> int:
    """Build the named operations, all by default, with a line on each; 0 also when there is no compiler."""
    code = 0
    for op in names or operations():
        print(f"{op}: ", end="", flush=True)
        try:
            print(build(op)[1], flush=True)
        except (BuildError, OSError, ValueError) as error:
            print(error, flush=True)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
