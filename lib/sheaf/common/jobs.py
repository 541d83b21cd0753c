"""Training runs as jobs: described by plain values, run side by side in processes of their own, kept once finished.

A finished job is a small JSON file named after its description, its data and the code it runs, with a checkpoint beside it when
the worker gave one. An interrupted experiment goes on where it was, and a changed line of the method starts it anew; comments and
layout do not count.
"""

import ast
import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import connection, parent_process
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sheaf.common.data import cache_dir

__all__ = ["Job", "Worker", "grid", "run_all", "tensors_of"]

Job = dict[str, Any]  # plain values only: what a worker needs to know
Worker = Callable[[Job], dict[str, Any]]
_TENSORS = "tensors"  # the key under which a worker hands over a checkpoint
_FILE = "tensor file"  # and under which a result names it


def _code(file: Path) -> bytes:
    """What of a source file counts: its syntax tree; of anything but Python, its bytes."""
    text = file.read_bytes()
    return ast.dump(ast.parse(text)).encode() if file.suffix == ".py" else text


def _digest(worker: Worker, sources: Iterable[ModuleType | Path]) -> str:
    own = sys.modules[worker.__module__]
    files = {f if isinstance(f, Path) else Path(str(f.__file__)) for f in (own, *sources)}
    digest = hashlib.sha256(torch.__version__.split("+")[0].encode())
    for file in sorted(files, key=lambda f: (f.name, str(f))):
        digest.update(file.name.encode() + b"\0" + _code(file))
    return digest.hexdigest()


def _stored(file: Path) -> dict[str, Any] | None:
    """A stored result; None when there is none or it cannot be read: then it is made again."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or (_FILE in found and not (file.parent.parent / found[_FILE]).is_file()):
        return None
    return found


def _save(file: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Store a result whole or not at all; the checkpoint first, so that a JSON file never names one that is not there."""
    tensors = result.pop(_TENSORS, None)
    if tensors is not None:
        from safetensors.torch import save_file

        kept = file.with_suffix(".safetensors")
        partial = kept.with_suffix(f".{os.getpid()}")
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial)
        partial.replace(kept)
        result[_FILE] = f"{file.parent.name}/{kept.name}"
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(file)
    return result


def tensors_of(result: dict[str, Any]) -> dict[str, Tensor]:
    """The checkpoint that a job's worker returned as "tensors".

    Raises:
        ValueError: the worker returned none.
    """
    if _TENSORS in result:  # a run that was not kept
        return result[_TENSORS]
    if _FILE not in result:
        raise ValueError("this job kept no tensors; its worker has to return them under 'tensors'")
    from safetensors.torch import load_file

    folder, _, name = result[_FILE].partition("/")
    return load_file(cache_dir(folder) / name)


def _start() -> None:
    """A worker process ends with its parent: one whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _run(worker: Worker, job: Job, file: Path | None) -> dict[str, Any]:
    torch.set_num_threads(1)
    result = worker(job)
    return _save(file, result) if file else result


def run_all(
    worker: Worker, jobs: Sequence[Job], *, paper: str, sources: Iterable[ModuleType | Path] = (), data: str = "",
    processes: int | None = None, progress: Callable[[object], None] | None = None, keep: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Results of all jobs, in their order; each is the job's own values and what the worker returned.

    Args:
        worker: a function of a module, job -> plain values; must depend on nothing but the job. It may return a checkpoint
            under "tensors" (name -> tensor), which `tensors_of` reads back.
        paper: whose folder of the cache keeps the results.
        sources: modules and files that decide whether a kept result is still good, besides the worker's own module.
        data: digest or name of the data that all jobs use.
        processes: how many at once, one thread each; 1 runs them here. All usable cores when None.
        progress: called once per finished job.
        keep: store finished jobs and use stored ones.
    """
    code = _digest(worker, sources)
    about = [[worker.__module__, worker.__qualname__, job, data, code] for job in jobs]
    names = [hashlib.sha256(json.dumps(a, sort_keys=True).encode()).hexdigest()[:24] for a in about]
    files = [cache_dir(paper) / f"{name}.json" if keep else None for name in names]
    found: dict[int, dict[str, Any]] = {}
    for i, file in enumerate(files):
        if file is not None and (stored := _stored(file)) is not None:
            found[i] = stored
            if progress:
                progress(i)
    todo = [i for i in range(len(jobs)) if i not in found]

    def finish(i: int, result: dict[str, Any]) -> None:
        found[i] = result
        if progress:
            progress(i)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(processes or cores, len(todo))
    if workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start) as pool:
            futures = {pool.submit(_run, worker, jobs[i], files[i]): i for i in todo}
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
                finish(i, _run(worker, jobs[i], files[i]))
        finally:
            torch.set_num_threads(before)
    return [jobs[i] | found[i] for i in range(len(jobs))]


def grid(base: Job, **axes: Iterable[Any]) -> list[Job]:
    """All combinations of the named values laid over a job."""
    jobs = [base]
    for name, values in axes.items():
        jobs = [job | {name: value} for job in jobs for value in values]
    return jobs
