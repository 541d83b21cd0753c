"""Registry of the kernels' benchmarks: ``python -m sheaf_kernels.bench [name ...]`` runs them, all by default.

A benchmark checks first that what it times gives the same results, then times both sides in turn in one run.
"""

import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from sheaf_kernels import build

__all__ = ["BENCHMARKS", "benchmark", "main", "names", "one_core", "table"]

BENCHMARKS: dict[str, Callable[[], str]] = {}


def benchmark(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register a function without arguments, whose result is the text to print, as ``operation/what``.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Callable[[], str]) -> Callable[[], str]:
        if name in BENCHMARKS and BENCHMARKS[name].__module__ != function.__module__:
            raise ValueError(f"benchmark {name!r} is already registered by {BENCHMARKS[name].__module__}; use another name")
        BENCHMARKS[name] = function
        return function

    return register


def names() -> list[str]:
    """Every benchmark, after importing the benchmark file of every operation."""
    for path in sorted(build.PACKAGE.glob("*/benchmark.py")):
        importlib.import_module(f"sheaf_kernels.{path.parent.name}.benchmark")
    return sorted(BENCHMARKS)


@contextmanager
def one_core() -> Iterator[None]:
    """Torch on one thread, for as long as the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines of text with aligned columns, the first to the left and the others to the right."""
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    cells.insert(1, ["-" * w for w in widths])
    first, *others = widths
    lines = ("  ".join([row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], others, strict=True))]) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def main(wanted: Sequence[str] | None = None) -> int:
    """Run benchmarks by name, or by the part before the slash; all by default. Returns the exit code."""
    known = names()
    chosen = [n for n in known if not wanted or n in wanted or n.split("/")[0] in wanted]
    if unknown := [w for w in wanted or () if w not in chosen and w not in {n.split("/")[0] for n in chosen}]:
        print(f"benchmark {unknown[0]!r} is unknown; there are {', '.join(known)}", file=sys.stderr)
        return 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.machine()}, {cores} cores{busy}; Python {platform.python_version()}, torch {torch.__version__}")
    for name in chosen:
        print(f"\n{name}", flush=True)
        try:
            print(BENCHMARKS[name](), flush=True)
        except RuntimeError as error:
            print(f"not measured: {error}", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    from sheaf_kernels.bench import main as run  # the registry that benchmark files see, not a second copy of it

    sys.exit(run(sys.argv[1:]))
