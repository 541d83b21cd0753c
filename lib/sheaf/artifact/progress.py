"""What a run is doing, read from the files its jobs write: a live table on a terminal, lines elsewhere."""

import json
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sheaf.artifact.run import State
from sheaf.artifact.scrub import scrub_text

__all__ = ["Display", "Look", "look"]

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
_STYLE = {WAITING: "dim", RUNNING: "cyan", DONE: "green", FAILED: "bold red"}
_MARK = {WAITING: "·", RUNNING: "▸", DONE: "✔", FAILED: "✘"}
_TAIL = 4096  # bytes of a heartbeat file that are read: the last lines are what matters
LINE_EVERY = 30.0  # seconds between lines about one running notebook when there is no terminal


@dataclass(frozen=True)
class Look:
    """One notebook at one moment."""

    state: str
    seconds: float = 0.0
    what: str = ""


def _beats(state: State) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first and the last heartbeats of a notebook's run; empty when it has not started."""
    try:
        with state.heartbeat.open("rb") as file:
            first = file.readline()
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            tail = file.read().splitlines()
    except OSError:
        return {}, []
    return (_json(first) or {}), [beat for line in tail if (beat := _json(line))]


def _json(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:  # the line being written, or one cut by the window
        return None
    return found if isinstance(found, dict) else None


def look(state: State) -> Look:
    """State of a notebook; the launcher took away the traces of earlier runs, so that no clock has to tell them apart."""
    first, last = _beats(state)
    started = float(first.get("t", 0))
    if state.failed.is_file():
        why = (_json(state.failed.read_bytes()) or {}).get("why", "")
        return Look(FAILED, max(0.0, state.failed.stat().st_mtime - started) if started else 0.0, str(why))
    if not started:
        return Look(WAITING)
    if state.done.is_file():
        return Look(DONE, max(0.0, state.done.stat().st_mtime - started))
    cell: dict[str, Any] = next((b for b in reversed(last) if "cell" in b), {})
    step: dict[str, Any] = next((b for b in reversed(last) if "what" in b), {})
    words = []
    if cell:
        words.append(f"cell {cell['cell']}/{cell['cells']}")
    if step and step.get("t", 0) >= cell.get("t", 0):
        total = f"/{step['total']}" if step.get("total") else ""
        words.append(f"{scrub_text(str(step['what']), state.root)} {step['done']}{total}{_left(last, step)}")
    return Look(RUNNING, max(0.0, time.time() - started), ", ".join(words) or "starting")


def _left(beats: list[dict[str, Any]], step: dict[str, Any]) -> str:
    """Time left of a loop, from the pace of its last heartbeats."""
    same = [b for b in beats if b.get("what") == step["what"]]
    made, spent = step["done"] - same[0]["done"], step["t"] - same[0]["t"]
    if not step.get("total") or made <= 0 or spent < 2:
        return ""
    return f", {_time(spent / made * (step['total'] - step['done']))} left"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Display:
    """Shows a run until it ends: ``with Display(states) as display: display.update()`` a few times a second."""

    def __init__(self, states: list[State], console: Console | None = None):
        self._states = states
        self._console = console or Console()
        self._live: Live | None = None
        self._said: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> "Display":
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.update()
        if self._live:
            self._live.__exit__(None, None, None)

    def update(self) -> None:
        """Show each notebook's state as it is now."""
        looks = [look(state) for state in self._states]
        if self._live:
            self._live.update(self._table(looks))
            return
        for state, now in zip(self._states, looks, strict=True):
            said, when = self._said.get(state.name, (WAITING, 0.0))
            changed = now.state != said
            if changed or (now.state == RUNNING and now.seconds - when >= LINE_EVERY):
                tail = f": {now.what}" if now.what else ""
                print(f"{_MARK[now.state]} {state.name} {now.state} {_time(now.seconds)}{tail}", flush=True)
                self._said[state.name] = (now.state, now.seconds)

    def _table(self, looks: list[Look]) -> Table:
        done = sum(found.state == DONE for found in looks)
        table = Table(box=None, pad_edge=False, title_justify="left", title=f"{done} of {len(looks)} notebooks done")
        for heading, options in (("notebook", {}), ("state", {}), ("time", {"justify": "right"}), ("", {})):
            table.add_column(heading, no_wrap=True, overflow="ellipsis", **options)  # type: ignore[arg-type]
        shown = list(zip(self._states, looks, strict=True))
        room = max(5, self._console.height - 6)
        if len(shown) > room:  # what runs or failed is of interest, what waits and what is done less so
            order = {RUNNING: 0, FAILED: 1, DONE: 2, WAITING: 3}
            keep = {id(pair) for pair in sorted(shown, key=lambda pair: order[pair[1].state])[:room]}
            shown = [pair for pair in shown if id(pair) in keep]
        for state, found in shown:
            label = Text(f"{_MARK[found.state]} {found.state}", style=_STYLE[found.state])
            table.add_row(state.name, label, _time(found.seconds) if found.seconds else "", Text(found.what, style="dim"))
        return table


