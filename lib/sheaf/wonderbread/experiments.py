"""The corpus of a profile, recorded once and kept, and what there is to see and to check in it."""

import fcntl
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sheaf.common.data import cache_dir, data_dir, project_root
from sheaf.wonderbread.corpus import Corpus, record_corpus, shipped_corpus
from sheaf.wonderbread.dsl import describe
from sheaf.wonderbread.importer import Report, import_folder
from sheaf.wonderbread.trace import Demo, target

__all__ = ["DAMAGES", "Recorded", "action_log", "corpus_for", "corpus_table", "import_check", "valid_share"]

Counter = Callable[[str, int], Callable[[object], None]]  # what is counted and how many -> a function called for each


@dataclass(frozen=True)
class Recorded:
    """A corpus and where it comes from, in words for the reader."""

    corpus: Corpus
    source: str


def corpus_for(settings: Mapping[str, Any], seed: int, counter: Counter | None = None) -> Recorded:
    """The recorded demonstrations of a profile.

    With ``record`` set they are recorded with a real Chromium against the project's applications, once: they stay in
    the cache under a name that changes with the settings and with the code that made them. Without a Chromium, and in
    the smoke profile, the small corpus that ships is used, and ``source`` says so.
    """
    from sheaf.common.browser import BrowserMissing

    if not settings.get("record"):
        corpus = shipped_corpus()
        return Recorded(corpus, f"the {len(corpus.demos)} demonstrations that ship with the project")
    wanted = {name: settings[name] for name in ("templates", "fillings", "policies")} | {"seed": seed}
    folder = cache_dir("wonderbread") / f"corpus-{_digest(wanted)}"
    folder.mkdir(exist_ok=True)
    tick: Callable[[object], None] | None = None
    shown = 0

    def show(done: int, total: int, what: str) -> None:
        nonlocal tick, shown
        if counter and done < total and tick is None:
            tick = counter("demonstrations recorded", total - done)
            shown = done
        while tick and shown < done:
            tick(what)
            shown += 1

    try:
        # in a thread: a notebook's own thread runs an event loop, which Playwright's plain interface refuses to share
        with _alone(folder), ThreadPoolExecutor(1) as thread:
            work = (wanted["templates"], wanted["fillings"], wanted["policies"], seed, show)
            corpus = thread.submit(record_corpus, folder, *work).result()
    except BrowserMissing as error:
        corpus = shipped_corpus()
        return Recorded(corpus, f"the {len(corpus.demos)} demonstrations that ship; nothing could be recorded here: {error}")
    return Recorded(corpus, f"{len(corpus.demos)} demonstrations recorded on this machine with a real Chromium")


def _digest(wanted: Mapping[str, Any]) -> str:
    """Of the settings and of every file that takes part in recording."""
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
    library = project_root() / "lib" / "sheaf"
    own = [library / "wonderbread" / f"{name}.py" for name in ("campaign", "recorder", "events", "observe", "dsl", "trace")]
    texts = [*(library / "common" / "apps").rglob("*.py"), *(data_dir("wonderbread") / "workflows").glob("*.toml"), *own]
    for path in sorted(texts):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two notebooks that need the same recordings at once: the second waits, then finds them."""
    with (folder.parent / f"{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def action_log(demo: Demo) -> pd.DataFrame:
    """The actions of a demonstration: its number, kind, the paper's sentence, the tag of the element it hit."""
    rows = []
    for k, action in enumerate(demo.actions):
        element = target(action)
        rows.append((k, getattr(action.data, "type", ""), describe(action), element.tag if element else ""))
    return pd.DataFrame(rows, columns=["action", "kind", "sentence", "element"])


def corpus_table(corpus: Corpus) -> pd.DataFrame:
    """Per site and policy: demonstrations, mean states, how many reached the goal."""
    rows = pd.DataFrame(
        [(d.site, d.policy, d.template, len(d.states), bool(d.completed)) for d in corpus.demos],
        columns=["site", "policy", "template", "states", "completed"],
    )
    grouped = rows.groupby(["site", "policy"], sort=True)
    return grouped.agg(
        demonstrations=("states", "size"), workflows=("template", "nunique"), mean_states=("states", "mean"),
        least=("states", "min"), most=("states", "max"), reached_goal=("completed", "sum"),
    ).reset_index()  # fmt: skip


def valid_share(corpus: Corpus) -> list[float]:
    """[n] 1 for each demonstration that the importer finds sound, else 0."""
    folder = _folder(corpus)
    return [float(not demo.broken) for demo in import_folder(folder).demos if demo.name in {d.name for d in corpus.demos}]


def _folder(corpus: Corpus) -> Path:
    folder = corpus.demos[0].folder
    if folder is None:
        raise ValueError("this corpus lies nowhere: its demonstrations have no folders")
    return folder.parent


def import_check(corpus: Corpus) -> pd.DataFrame:
    """The importer on the corpus, then on copies of its first demonstration damaged in one way each: what it says."""
    report = import_folder(_folder(corpus))
    rows = [("this corpus, as it is", len(report.demos), sum(bool(d.broken) for d in report.demos), "")]
    for what, damage in DAMAGES.items():
        with tempfile.TemporaryDirectory(prefix="sheaf-damage-") as scratch:
            copy = Path(scratch) / "data" / corpus.demos[0].name
            shutil.copytree(_folder(corpus) / copy.name, copy)
            try:
                found = import_folder(damage(copy))
            except (ValueError, OSError) as error:
                rows.append((what, 0, 0, f"refused: {error}"))
                continue
            rows.append((what, len(found.demos), sum(bool(d.broken) for d in found.demos), _first(found)))
    return pd.DataFrame(rows, columns=["folder or archive", "demonstrations", "broken", "what the importer says"])


def _first(report: Report) -> str:
    said = [*report.problems, *(problem for demo in report.demos for problem in demo.broken)]
    return said[0][:160] if said else ""


def _cut_trace(demo: Path) -> Path:
    trace = demo / f"{demo.name}.json"
    trace.write_bytes(trace.read_bytes()[:-200])
    return demo.parent


def _drop_action(demo: Path) -> Path:
    trace = demo / f"{demo.name}.json"
    stored = json.loads(trace.read_text(encoding="utf-8"))
    del stored["trace"][1]
    trace.write_text(json.dumps(stored), encoding="utf-8")
    return demo.parent


def _lose_picture(demo: Path) -> Path:
    (demo / "screenshots" / "1.png").unlink()
    return demo.parent


def _link_out(demo: Path) -> Path:
    sop = demo / f"SOP - {demo.name}.txt"
    sop.unlink()
    sop.symlink_to("/etc/hostname")
    return demo.parent


def _traversal(demo: Path) -> Path:
    archive = demo.parent / "escaping.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.write(demo / f"{demo.name}.json", f"{demo.name}/{demo.name}.json")
        out.writestr("../outside.txt", "x")
    return archive


def _bomb(demo: Path) -> Path:
    archive = demo.parent / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.write(demo / f"{demo.name}.json", f"{demo.name}/{demo.name}.json")
        zeros = b"\0" * (1 << 20)
        with out.open(f"{demo.name}/screenshots/0.png", "w", force_zip64=True) as picture:
            for _ in range(1100):
                picture.write(zeros)
    return archive


DAMAGES: dict[str, Callable[[Path], Path]] = {
    "a trace cut short": _cut_trace, "an action missing": _drop_action, "a screenshot missing": _lose_picture,
    "a procedure that links elsewhere": _link_out, "an archive that writes outside": _traversal,
    "an archive that unpacks without end": _bomb,
}  # fmt: skip
