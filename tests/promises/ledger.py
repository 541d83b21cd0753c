"""Counting: what a promise is, how its trials are counted, and the record that a full run writes."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sheaf.artifact.promises import SHOWN
from sheaf.artifact.record import atomic_write, digest
from sheaf.artifact.scrub import scrub_text

ROOT = Path(__file__).resolve().parents[2]
PROPERTY = "promise"  # the name under which a test hands its count to the process that writes the record


@dataclass
class Promise:
    """One promise and its trials.

    Args:
        name: its short name, e.g. "kernel-death".
        says: the promise in one sentence, as a user would want it given.
        tried_by: what is done to break it, in one sentence.
        full: whether this is the whole proof (``make prove``) or the fast part of it.
    """

    name: str
    says: str
    tried_by: str
    full: bool
    tried: int = 0
    broken: list[str] = field(default_factory=list)
    figures: dict[str, float | int | str] = field(default_factory=dict)  # measured on the way, for the report
    _begun: float = field(default_factory=time.perf_counter)

    def size(self, full: int, fast: int) -> int:
        """How many trials to make."""
        return full if self.full else fast

    def trial(self, kept: bool, what: str) -> None:
        """Count one trial; ``what`` names it in one line and is shown when it broke."""
        self.tried += 1
        if not kept:
            whole = what.encode("utf-8", "backslashreplace").decode()  # half characters cannot be stored
            self.broken.append(scrub_text(whole, ROOT))  # the record is kept, and names no machine

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Count the block as one trial; an exception, an assertion's included, breaks it and the proof goes on."""
        try:
            yield
        except Exception as error:
            self.trial(False, f"{what}: {type(error).__name__}: {str(error)[:300]}")
        else:
            self.trial(True, what)

    def count(self) -> dict[str, Any]:
        """The entry of the record."""
        return {
            "name": self.name, "says": self.says, "tried_by": self.tried_by, "tried": self.tried, "failed": len(self.broken),
            "broken": self.broken[:SHOWN], "figures": self.figures, "seconds": round(time.perf_counter() - self._begun, 1),
        }  # fmt: skip


def merge(counts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per promise: the counts of all its tests together."""
    found: dict[str, dict[str, Any]] = {}
    for one in counts:
        held = found.setdefault(one["name"], one | {"tried": 0, "failed": 0, "broken": [], "figures": {}, "seconds": 0.0})
        held["tried"] += one["tried"]
        held["failed"] += one["failed"]
        held["broken"] = (held["broken"] + one["broken"])[:SHOWN]
        held["figures"] = held["figures"] | one["figures"]
        held["seconds"] = round(held["seconds"] + one["seconds"], 1)
    return sorted(found.values(), key=lambda e: e["name"])


def write(path: Path, counts: list[dict[str, Any]], provenance: dict[str, Any]) -> None:
    """The record of a full run, for the report."""
    body = {"schema": 1, "provenance": provenance, "promises": merge(counts)}
    body["digest"] = digest(body)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, (json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode())
