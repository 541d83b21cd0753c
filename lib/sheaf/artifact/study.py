"""Study: the one object a notebook talks to. It seeds, records, draws and judges; every side effect is here."""

import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as MplFigure

from sheaf.artifact import show
from sheaf.artifact.paths import project_root, results_dir
from sheaf.artifact.provenance import Clock, provenance
from sheaf.artifact.record import atomic_write, file_digest, plain, write_part
from sheaf.artifact.spec import Claim, SpecError, load_paper
from sheaf.artifact.verdict import OUT_OF_REACH, Judgement, judge
from sheaf.common.plots import svg_bytes

__all__ = ["Study"]

T = TypeVar("T")


class Study:
    """One run of one notebook of one paper.

    Args:
        paper: folder name under ``notebooks/``.
        notebook: which of the paper's notebooks this is, as named in paper.toml.
        profile: smoke, laptop, gpu or paper.
        seed: the run's base seed; everything random derives from it.
        results_dir: where to write, relative to the project root; default ``results/<profile>/<paper>``.

    Raises:
        SpecError: unknown paper, notebook or profile, or a paper.toml that is not valid.
    """

    def __init__(
        self, paper: str, *, notebook: str, profile: str = "smoke", seed: int = 0, results_dir: str | None = None
    ) -> None:
        self._spec = load_paper(paper)
        self._spec.notebook(notebook)
        self.paper, self.notebook, self.profile, self.seed = paper, notebook, profile, int(seed)
        self.settings: dict[str, Any] = self._spec.settings(profile, notebook)
        self._root = project_root()
        self._folder = _folder(self._root, profile, paper, results_dir)
        self._mine = {entry.id: (kind, entry) for kind, entry in self._spec.entries(notebook)}
        self._made: dict[str, dict[str, Any]] = {}
        self._clock = Clock()

    def seeds(self, n: int | None = None) -> list[int]:
        """``n`` consecutive seeds from the run's seed; default the profile's ``seeds`` setting, or ``SHEAF_SEEDS``."""
        wanted = os.environ.get("SHEAF_SEEDS") if self.profile != "smoke" else None
        count = int(wanted) if wanted else n if n is not None else int(self.settings.get("seeds", 1))
        return list(range(self.seed, self.seed + count))

    def rng(self, name: str = "") -> np.random.Generator:
        """A generator of its own for every name, the same for the same seed."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def table(
        self,
        id: str,
        frame: pd.DataFrame,
        *,
        published: pd.DataFrame | None = None,
        note: str = "",
        scale: str = "",
        rows: int = 12,
    ) -> None:
        """Store a table as CSV and show its first ``rows`` rows, the published values apart from the measured ones.

        Args:
            id: of the ``[[table]]`` in paper.toml.
            frame: what was measured.
            published: the paper's own values for it.
            note: what a reader should know when reading it.
            scale: size of this run against the paper's.
        """
        entry = self._entry(id, "table")
        made: dict[str, Any] = {
            "file": self._store(f"tables/{id}.csv", _csv(frame)),
            "rows": len(frame),
            "scale": scale,
            "note": note,
        }
        made["sha256"] = file_digest(self._folder / made["file"])
        if published is not None:
            made["published_file"] = self._store(f"tables/{id}.published.csv", _csv(published))
            made["published_sha256"] = file_digest(self._folder / made["published_file"])
        self._note(id, "table", made)
        show.table(f"{id}: {entry.title}", frame, published, note, rows)

    def figure(self, id: str, fig: MplFigure, *, note: str = "") -> None:
        """Store a figure as SVG, legible on light and dark pages, and show it."""
        entry = self._entry(id, "figure")
        file = self._store(f"figures/{id}.svg", svg_bytes(fig))
        self._note(id, "figure", {"file": file, "sha256": file_digest(self._folder / file), "note": note})
        show.figure(f"{id}: {entry.title}", fig)

    def claim(self, id: str, samples: Sequence[float] | np.ndarray | pd.Series, *, note: str = "") -> None:
        """Judge a claim on its samples (one per seed, instance or cell, in the claim's unit), record and show the verdict.

        In a profile that paper.toml does not list for the claim the verdict is "out of reach".
        """
        entry = self._entry(id, "claim")
        assert isinstance(entry, Claim)
        values = [float(v) for v in np.asarray(samples, dtype=float).ravel()]
        if self.profile in entry.profiles:
            found = judge(values, entry.reproduced_if, entry.statistic)
        else:
            found = Judgement(
                OUT_OF_REACH, f"this profile ({self.profile}) cannot test it; {' or '.join(entry.profiles)} can"
            )
            values = []
        self._note(id, "claim", {
            "says": entry.says, "unit": entry.unit, "published": entry.published, "reported": entry.reported,
            "statistic": entry.statistic, "criterion": entry.reproduced_if, "verdict": found.verdict, "why": found.why,
            "measured": found.measured, "low": found.low, "high": found.high, "n": found.n, "method": found.method,
            "samples": values, "note": note, "seeds": self.seed,
        })  # fmt: skip
        show.claim(id, entry, found)

    def missing(self, id: str, reason: str) -> None:
        """Record that an entry could not be made here, and why."""
        kind, _ = self._known(id)
        made: dict[str, Any] = {"missing": reason}
        if kind == "claim":
            entry = self._entry(id, "claim")
            assert isinstance(entry, Claim)
            made |= {
                "says": entry.says, "unit": entry.unit, "published": entry.published, "reported": entry.reported,
                "statistic": entry.statistic, "criterion": entry.reproduced_if, "verdict": OUT_OF_REACH, "why": reason,
                "measured": None, "low": None, "high": None, "n": 0, "method": "", "samples": [], "note": "",
            }  # fmt: skip
        self._note(id, kind, made)
        show.text(f"{id}: not made. {reason}")

    def progress(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Iterate with a progress bar in Jupyter, a heartbeat file in a batch run, and silence under validation."""
        total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
        if beat := os.environ.get("SHEAF_HEARTBEAT"):
            return _heartbeat(items, what, total, Path(beat))
        if "SHEAF_RESULTS" in os.environ:
            return iter(items)
        from tqdm.auto import tqdm

        return iter(tqdm(items, desc=what, total=total, leave=False))

    def counter(self, what: str, total: int) -> Callable[[object], None]:
        """A function to call once for each finished piece, for work that calls back instead of being iterated."""
        ticks = self.progress(range(total), what)
        next(ticks, None)

        def tick(_piece: object = None) -> None:
            next(ticks, None)

        return tick

    def verdicts(self) -> None:
        """Closing cell: write this notebook's part of the record and show what became of each of its entries.

        Raises:
            RuntimeError: an entry that paper.toml assigns to this notebook was not made.
        """
        for id, (kind, entry) in self._mine.items():
            reason = getattr(entry, "missing", None)
            if id not in self._made and reason:
                self._note(id, kind, {"missing": reason})
            elif id not in self._made and self.profile not in entry.profiles:
                self.missing(id, f"this profile ({self.profile}) does not make it; {' or '.join(entry.profiles)} does")
        if forgotten := [id for id in self._mine if id not in self._made]:
            raise RuntimeError(
                f"{self.paper}/{self.notebook} did not make {', '.join(forgotten)}; call study.table, study.figure, "
                "study.claim or study.missing for each, or take them out of paper.toml"
            )
        facts = provenance(
            self._root, self.paper, self.seed, plain(self.settings), self._clock, self._spec.paper.external
        )
        ordered = {id: self._made[id] for id in self._mine}
        write_part(self._folder, self.paper, self.profile, self.notebook, ordered, facts)
        show.verdicts(ordered)
        print(f"sheaf: {self.paper}/{self.notebook} complete: {', '.join(ordered) or 'no entries'}")

    def _known(self, id: str) -> tuple[str, Any]:
        if id not in self._mine:
            known = ", ".join(self._mine) or "none"
            raise SpecError(f"{self.paper}/{self.notebook} has no entry {id!r} in paper.toml; its entries: {known}")
        return self._mine[id]

    def _entry(self, id: str, kind: str) -> Any:
        found, entry = self._known(id)
        if found != kind:
            raise SpecError(f"{id} is a {found} in paper.toml, not a {kind}; call study.{found}({id!r}, ...)")
        return entry

    def _note(self, id: str, kind: str, made: dict[str, Any]) -> None:
        entry = self._mine[id][1]
        head = {"kind": kind, "notebook": self.notebook, "where": entry.where, "title": getattr(entry, "title", "")}
        self._made[id] = head | made

    def _store(self, name: str, content: bytes | str) -> str:
        atomic_write(self._folder / name, content)
        return name


def _folder(root: Path, profile: str, paper: str, named: str | None) -> Path:
    return root / named if named else results_dir(profile, paper, root)


def _csv(frame: pd.DataFrame) -> str:
    unnamed = isinstance(frame.index, pd.RangeIndex)
    return frame.to_csv(index=not unnamed, float_format="%.6g", lineterminator="\n")


def _heartbeat(items: Iterable[T], what: str, total: int | None, file: Path) -> Iterator[T]:
    def beat(done: int) -> None:
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"what": what, "done": done, "total": total, "t": round(time.time(), 1)}) + "\n")

    beat(0)
    for done, item in enumerate(items, 1):
        yield item
        beat(done)
