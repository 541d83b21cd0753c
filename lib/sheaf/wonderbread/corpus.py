"""A set of demonstrations: read from a folder, shipped with the project, or recorded here in a real browser.

Run: ``python -m sheaf.wonderbread.corpus record FOLDER --templates 24 --fillings 1 --policies direct detour wrong``
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from sheaf.common.data import data_dir
from sheaf.wonderbread.loader import demo_folders, load_demo, read_ranks
from sheaf.wonderbread.trace import Demo, dump_trace

if TYPE_CHECKING:
    from sheaf.wonderbread.recorder import Style

__all__ = ["Corpus", "corpus_of", "load_corpus", "main", "record_corpus", "shipped_corpus"]

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


def record_corpus(
    folder: Path, templates: int, fillings: int, policies: Sequence[str], seed: int,
    progress: Progress | None = None, style: "Style | None" = None, sites: Sequence[str] = (),
) -> Corpus:  # fmt: skip
    """Records demonstrations with a real Chromium against the project's own applications.

    A demonstration's folder appears whole or not at all, and those already there are kept: a run that was stopped is
    completed by the same call. The caller chooses one folder for one set of arguments.

    Args:
        folder: made when missing.
        templates: workflows, sites in turn; ``fillings`` slot fillings of each; ``policies`` ways to carry each out.
        seed: of the procedures' defects and of who gets which.
        progress: called with (done, total, name) after each demonstration.
        style: what is kept of each state; the default is half-size pictures in 64 colours without HTML.
        sites: only workflows of these; all by default.

    Raises:
        ValueError: an unknown policy or site, no policy that reaches the goal, or more templates or fillings than
            there are.
        BrowserMissing: there is no Chromium here.
        RuntimeError: an application did not end in the state that the policy leads to.
    """
    from sheaf.wonderbread.campaign import LAPTOP, plan, record_missing

    jobs = plan(templates, fillings, policies, seed, sites)
    here = sum((folder / job.name).is_dir() for job in jobs)
    if progress:
        progress(here, len(jobs), "already here" if here else "")
    for done, job in enumerate(record_missing(folder, jobs, style or LAPTOP), start=here + 1):
        if progress:
            progress(done, len(jobs), job.name)
    return corpus_of([load_demo(folder / job.name) for job in jobs])


def main(arguments: list[str] | None = None) -> int:
    """The command: records into a folder with a progress bar; 0 when all is there, 1 with one sentence otherwise."""
    from sheaf.wonderbread.campaign import LAPTOP, SHIPPED

    parser = argparse.ArgumentParser(prog="python -m sheaf.wonderbread.corpus", description=(__doc__ or "").split("\n")[0])
    record = parser.add_subparsers(required=True).add_parser("record", help="record demonstrations in a real browser")
    record.add_argument("folder", type=Path, metavar="FOLDER")
    record.add_argument("--templates", type=int, default=24, help="workflows, sites in turn (24)")
    record.add_argument("--fillings", type=int, default=1, help="slot fillings of each workflow (1)")
    record.add_argument("--policies", nargs="+", default=["direct", "detour", "wrong"], metavar="POLICY",
                        help="direct, detour, redundant, keyboard, backtrack, wrong (direct detour wrong)")
    record.add_argument("--sites", nargs="+", default=[], metavar="SITE", help="only workflows of these (all)")
    record.add_argument("--seed", type=int, default=0)
    record.add_argument("--small", action="store_true", help="smaller pictures in 16 colours, as in the corpus that ships")
    record.add_argument("--video", action="store_true", help="also a film of each demonstration (MP4)")
    given = parser.parse_args(arguments)
    style = replace(SHIPPED if given.small else LAPTOP, video=given.video)
    start = time.perf_counter()
    with tqdm(unit="demo", disable=None, leave=False) as bar:

        def show(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_postfix_str(what, refresh=False)
            bar.update(done - bar.n)

        try:
            corpus = record_corpus(
                given.folder, given.templates, given.fillings, given.policies, given.seed, show, style, given.sites
            )
        except (ValueError, OSError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    actions = sum(len(demo.actions) for demo in corpus.demos)
    print(f"{len(corpus.demos)} demonstrations, {actions} actions in {given.folder}; {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
