"""What a run ends with on the terminal: failures in full, then one row per paper."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sheaf.artifact.paths import results_dir, state_dir
from sheaf.artifact.plan import Item
from sheaf.artifact.publish import PublishError, probe_writable
from sheaf.artifact.record import load
from sheaf.artifact.run import shown_results
from sheaf.artifact.spec import Paper
from sheaf.artifact.verdict import INCONCLUSIVE, NO_VERDICT, NOT_REPRODUCED, OUT_OF_REACH, REPRODUCED

__all__ = ["failures", "papers"]

LOG_LINES = 15


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=130)


def failures(left: Sequence[Item], root: Path) -> None:
    """For each notebook without results: what failed, its traceback in full, and where to read on."""
    for item in left:
        state = item.state
        if state.failed.is_file():
            facts: dict[str, Any] = json.loads(state.failed.read_text(encoding="utf-8"))
            print(f"\n✘ {state.name} failed: {facts['why']}")
            if facts.get("traceback"):
                print(facts["traceback"])
            kept = f", executed copy {state.shown(state.failed_notebook)}" if state.failed_notebook.is_file() else ""
            print(f"  log {facts['log']}{kept}")
        elif blocker := _blocker(item, left):
            print(f"\n· {state.name} was skipped: {blocker} comes before it and failed")
        elif cause := _no_room(root):
            print(f"\n✘ {state.name} did not run: {cause}")
        else:
            print(f"\n✘ {state.name} did not run; the end of its log:")
            for log in (state.log, root / ".sheaf" / "logs" / "kernels.log", root / ".sheaf" / "logs" / "snakemake.log"):
                if log.is_file():
                    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
                    print("\n".join(f"  {line}" for line in lines), f"\n  log {log.relative_to(root)}")
                    break


def _no_room(root: Path) -> str:
    """Why a notebook could not even say why it failed: what it writes finds no room; empty when there is room."""
    try:
        probe_writable(state_dir(root), state_dir(root).relative_to(root).as_posix(), room=1 << 22)
    except PublishError as error:
        return str(error)
    return ""


def _blocker(item: Item, left: Sequence[Item]) -> str | None:
    paper = item.spec.paper.id
    earlier = [o.state for o in left if o.spec.paper.id == paper and o.state.notebook < item.state.notebook]
    return earlier[0].name if earlier else None


def _row(spec: Paper, record: dict[str, Any]) -> list[str]:
    entries = list(record["entries"].values())

    def made(kind: str) -> str:
        listed = [e for e in entries if e["kind"] == kind]
        return f"{sum('missing' not in e for e in listed)}/{len(listed)}"

    verdicts = Counter(e.get("verdict", NO_VERDICT) for e in entries if e["kind"] == "claim")
    spent = sum(n["provenance"].get("wall_s", 0) for n in record["notebooks"].values())
    order = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, OUT_OF_REACH, NO_VERDICT)
    return [spec.paper.id, made("table"), made("figure"), *(str(verdicts[v]) for v in order), f"{spent:.0f} s"]


def papers(specs: Sequence[Paper], profile: str, root: Path) -> None:
    """The closing table: what was made and judged of each paper, its time, and where to look."""
    title = f"profile {profile}: tables and figures made/listed, claims by verdict"
    table = Table(title=title, title_justify="left")
    for heading in ("paper", "tables", "figures", "reproduced", "not", "inconclusive", "out of reach", "no verdict", "time"):
        table.add_column(heading, justify="left" if heading == "paper" else "right")
    table.add_column("look at", overflow="fold")
    for spec in specs:
        record = load(results_dir(profile, spec.paper.id, root) / "record.json")
        table.add_row(*_row(spec, record), f"{shown_results(profile, spec.paper.id, root)}.html")
    console = _console()
    console.print()
    console.print(table)
