"""Training runs as jobs: described by plain values, run side by side in processes of their own, kept once finished.

A finished job is a small JSON file named after its description, its data and the source of everything it runs, so that an
interrupted experiment goes on where it was, and a changed line of the method starts it anew.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import torch

import sheaf_kernels.block_sparse
from sheaf.common.data import cache_dir

__all__ = ["Job", "Worker", "grid", "run_all"]

Job = dict[str, Any]  # plain values only: what `Worker` needs to know
Worker = Callable[[Job], dict[str, Any]]
# what every job runs, besides its worker's own file
_METHOD = ("attention", "images", "layers", "masks", "miniature", "models", "patterns", "rigl", "sparsify", "train")
_COMMON = ("gpt", "text")


@cache
def _source(module: str) -> str:
    """Digest of the method's own files, of the worker's and of the kernel's."""
    # with and without the compiled kernel sums round differently, and training amplifies that
    digest = hashlib.sha256(f"{torch.__version__} {sheaf_kernels.block_sparse.compiled()}".encode())
    here, kernel = Path(__file__).resolve().parent, Path(sheaf_kernels.block_sparse.__file__).resolve().parent
    files = [here / f"{name}.py" for name in _METHOD] + [here.parent / "common" / f"{name}.py" for name in _COMMON]
    files += [Path(str(sys.modules[module].__file__))]
    sources = (
        f for f in kernel.iterdir() if f.suffix in (".cpp", ".h") or f.stem in ("__init__", "layout", "reference")
    )
    for file in [*files, *sorted(f for f in sources if f.is_file())]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _file(worker: Worker, job: Job, data: str) -> Path:
    about = [worker.__module__, worker.__qualname__, job, data, _source(worker.__module__)]
    return cache_dir("pixelfly") / f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]}.json"


def _stored(file: Path) -> dict[str, Any] | None:
    """A stored result; None when there is none or it cannot be read: then it is made again."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _start() -> None:
    """A worker process ends with its parent: one whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _run(worker: Worker, job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)
    return worker(job)


def run_all(
    worker: Worker, jobs: Sequence[Job], *, data: str = "", processes: int | None = None,
    progress: Callable[[object], None] | None = None, keep: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Results of all jobs, in their order; each is the job's own values and what the worker returned.

    Args:
        worker: a function of a module, job -> plain values; must depend on nothing but the job.
        data: digest or name of the data that all jobs use.
        processes: how many at once, one thread each; 1 runs them here. As many as torch has threads when None, which is
            ``OMP_NUM_THREADS`` or the cores.
        progress: called once per finished job.
        keep: store finished jobs and use stored ones.
    """
    files = [_file(worker, job, data) for job in jobs]
    found: dict[int, dict[str, Any]] = {}
    for i, file in enumerate(files):
        if keep and (stored := _stored(file)) is not None:
            found[i] = stored
            if progress:
                progress(i)
    todo = [i for i in range(len(jobs)) if i not in found]

    def finish(i: int, result: dict[str, Any]) -> None:
        found[i] = result
        if keep:
            partial = files[i].with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(result))
            partial.replace(files[i])
        if progress:
            progress(i)

    workers = min(processes or torch.get_num_threads(), len(todo))
    if workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start) as pool:
            futures = {pool.submit(_run, worker, jobs[i]): i for i in todo}
            try:
                for future in as_completed(futures):
                    finish(futures[future], future.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)  # what has finished is stored; the rest need not begin
                raise
    else:
        before = torch.get_num_threads()
        try:
            for i in todo:
                finish(i, _run(worker, jobs[i]))
        finally:
            torch.set_num_threads(before)
    return [jobs[i] | found[i] for i in range(len(jobs))]


def grid(base: Job, **axes: Iterable[Any]) -> list[Job]:
    """All combinations of the named values laid over a job."""
    jobs = [base]
    for name, values in axes.items():
        jobs = [job | {name: value} for job in jobs for value in values]
    return jobs
