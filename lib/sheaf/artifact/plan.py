"""Which notebooks have to run, and why: manifests wanted now against those the stored results were made under."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sheaf.artifact.manifest import Digests, Manifest, diff, notebook_manifest
from sheaf.artifact.paths import paper_ids, results_dir
from sheaf.artifact.run import State, shown_results
from sheaf.artifact.spec import PROFILES, Paper, SpecError, load_paper

__all__ = ["Item", "chosen_papers", "make_plan", "split_names"]


@dataclass(frozen=True)
class Item:
    """One notebook in a plan. ``why`` is empty when its stored results still hold."""

    state: State
    spec: Paper
    manifest: Manifest
    why: tuple[str, ...]
    status: str  # fresh, stale, failed or never run

    @property
    def minutes(self) -> int:
        return self.spec.notebook(self.state.notebook).timeout // 60 + 2


def split_names(text: str | Sequence[str] | None) -> list[str]:
    """Names separated by spaces or commas, each once, in the order given."""
    words = [text or ""] if isinstance(text, str) or text is None else text
    return list(dict.fromkeys(name for word in words for name in re.split(r"[\s,]+", word) if name))


def chosen_papers(names: Sequence[str], profile: str, root: Path) -> list[Paper]:
    """The papers asked for, or all that have the profile when none is named.

    Raises:
        SpecError: an unknown paper or profile, or a paper.toml that is not valid; the message lists what there is.
    """
    if profile not in PROFILES:
        raise SpecError(f"there is no profile {profile!r}; profiles: {', '.join(PROFILES)}")
    known = paper_ids(root)
    if unknown := [name for name in names if name not in known]:
        raise SpecError(f"there is no paper {unknown[0]!r}; papers here: {', '.join(known) or 'none'}")
    specs = [load_paper(name, root) for name in names or known]
    for spec in specs if names else []:
        spec.settings(profile)  # a paper asked for by name must have the profile
    found = [spec for spec in specs if profile in spec.profiles]
    if not found:
        raise SpecError(f"no paper here has the profile {profile!r}; papers here: {', '.join(known) or 'none'}")
    return found


def read_done(state: State) -> dict[str, Any] | None:
    """What the last complete run of a notebook left; None when there is none that can be read."""
    try:
        found = json.loads(state.done.read_text(encoding="utf-8"))
        return found if isinstance(found["manifest"], dict) and isinstance(found["outputs"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # damaged by a crash: as good as absent, it costs a rerun
        return None


def _outputs(state: State, outputs: dict[str, str], digests: Digests) -> list[str]:
    """Stored files that are gone or no longer what the run stored."""
    folder = results_dir(state.profile, state.paper, state.root)
    shown = shown_results(state.profile, state.paper, state.root)
    reasons = []
    for name, wanted in outputs.items():
        path = folder / name
        if not path.is_file():
            reasons.append(f"{shown}/{name} is missing")
        elif digests.of(path) != wanted:
            reasons.append(f"{shown}/{name} was changed after the run")
    return reasons


def _judge(state: State, wanted: Manifest, digests: Digests) -> tuple[str, tuple[str, ...]]:
    done = read_done(state)
    if done is not None:
        reasons = diff(done["manifest"], wanted) + _outputs(state, done["outputs"], digests)
        return ("stale", tuple(reasons)) if reasons else ("fresh", ())
    if state.failed.is_file():
        try:
            why = json.loads(state.failed.read_text(encoding="utf-8"))["why"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            why = "its reason was lost"
        return "failed", (f"failed last time: {why}",)
    return "never run", ("it has not been run to its end here",)


def make_plan(specs: Sequence[Paper], profile: str, seed: int, root: Path, force: bool = False) -> list[Item]:
    """Every notebook of the papers, in reading order, with the reasons to run it.

    Raises:
        FileNotFoundError, ValueError: a notebook that paper.toml lists is missing or unreadable.
    """
    digests = Digests(root)
    items = []
    for spec in specs:
        for notebook in spec.notebooks:
            state = State(root, profile, spec.paper.id, notebook.name)
            wanted = notebook_manifest(spec, notebook.name, profile, seed, root, digests)
            status, why = _judge(state, wanted, digests)
            if force and not why:
                why = ("FORCE is set",)
            items.append(Item(state, spec, wanted, why, status))
    digests.save()
    return items
