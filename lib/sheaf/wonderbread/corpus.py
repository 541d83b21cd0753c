"""A set of demonstrations: read from a folder, shipped with the project, or recorded here in a real browser."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sheaf.common.data import data_dir
from sheaf.wonderbread.loader import demo_folders, load_demo, read_ranks
from sheaf.wonderbread.trace import Demo, dump_trace

__all__ = ["Corpus", "corpus_of", "load_corpus", "shipped_corpus"]

Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True)
class Corpus:
    """Demonstrations in the order of task and name; ``digest`` changes with any trace or procedure text, not with pixels."""

    demos: tuple[Demo, ...]
    digest: str

    def by_task(self) -> dict[int, list[Demo]]:
        """The demonstrations of each task, tasks ascending."""
        tasks: dict[int, list[Demo]] = {}
        for demo in sorted(self.demos, key=lambda d: (d.task_id, d.name)):
            tasks.setdefault(demo.task_id, []).append(demo)
        return tasks

    def gold(self) -> list[Demo]:
        """The demonstrations with the best procedure of their task that are not known to have missed its goal."""
        return [demo for demo in self.demos if demo.rank == 1 and demo.completed is not False]

    def sites(self) -> list[str]:
        """Names of the sites, sorted."""
        return sorted({demo.site for demo in self.demos})

    def demo(self, name: str) -> Demo:
        """One demonstration by its name.

        Raises:
            ValueError: there is none of that name.
        """
        for demo in self.demos:
            if demo.name == name:
                return demo
        raise ValueError(f"no demonstration is called {name!r} in this corpus of {len(self.demos)}")


def corpus_of(demos: list[Demo]) -> Corpus:
    """A corpus of these demonstrations, ordered and digested."""
    ordered = tuple(sorted(demos, key=lambda d: (d.task_id, d.name)))
    digest = hashlib.sha256()
    for demo in ordered:
        for part in (demo.name, dump_trace(demo.trace), demo.sop or "", demo.original_sop or "", str(demo.rank)):
            digest.update(hashlib.sha256(part.encode()).digest())
    return Corpus(ordered, digest.hexdigest())


def load_corpus(folder: Path) -> Corpus:
    """All demonstrations in a folder: one folder each, and ``df_rankings.csv`` with their ranks when there is one.

    Raises:
        FileNotFoundError: no such folder, or no demonstration in it.
        TraceError: a demonstration is broken; names it. The importer lists them all.
    """
    folders = demo_folders(folder)
    if not folders:
        raise FileNotFoundError(f"no demonstration in {folder.name!r}; each is a folder '<task_id> @ YYYY-MM-DD-HH-MM-SS'")
    ranks = read_ranks(folder)
    return corpus_of([load_demo(path, rank=ranks.get(path.name)) for path in folders])


def shipped_corpus() -> Corpus:
    """The small corpus that ships with the project, recorded here with the project's own applications."""
    return load_corpus(data_dir("wonderbread") / "corpus")
