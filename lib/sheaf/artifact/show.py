"""What a notebook displays: tables beside their published values, figures, verdict lines."""

import html
import math
from typing import Any

import pandas as pd
from IPython.display import HTML, Image, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as MplFigure

from sheaf.artifact.spec import Claim
from sheaf.artifact.verdict import Judgement
from sheaf.common.plots import png_bytes

__all__ = ["claim", "figure", "number", "table", "text", "verdicts"]

MARKS = {"reproduced": "✔", "not reproduced": "✘", "inconclusive": "~", "out of reach": "–", "no verdict": "?"}


def number(value: Any) -> str:
    """Four significant digits, as every number in a notebook is shown; text is passed through."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not available"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return str(int(value))
    return f"{value:.4g}"


class _Shown:
    """Text for a terminal, HTML for a notebook."""

    def __init__(self, plain: str, rich: str) -> None:
        self._plain, self._rich = plain, rich

    def __repr__(self) -> str:
        return self._plain

    def _repr_html_(self) -> str:
        return self._rich


def _cell(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else number(value)


def _frame(frame: pd.DataFrame, rows: int, caption: str) -> tuple[str, str]:
    head = frame.head(rows)
    shown = pd.DataFrame(
        {c: [_cell(v.item() if hasattr(v, "item") else v) for v in head[c]] for c in head.columns}, dtype=object
    )
    indexed = not isinstance(frame.index, pd.RangeIndex)
    if indexed:
        shown.index = head.index
    more = ", ".join(filter(None, [caption, f"first {rows} of {len(frame)} rows" if len(frame) > rows else ""]))
    rich = (f"<p><em>{html.escape(more)}</em></p>" if more else "") + shown.to_html(index=indexed, border=0)
    return f"{more}\n{shown.to_string(index=indexed)}".lstrip(), rich


def table(title: str, frame: pd.DataFrame, published: pd.DataFrame | None, note: str, rows: int) -> None:
    """The measured table and, when there is one, the published table under its own caption."""
    plain, rich = _frame(frame, rows, "measured" if published is not None else "")
    if published is not None:
        also_plain, also_rich = _frame(published, rows, "published")
        plain, rich = f"{also_plain}\n\n{plain}", also_rich + rich
    tail = f"<p>{html.escape(note)}</p>" if note else ""
    display(_Shown(f"{title}\n{plain}\n{note}".rstrip(), f"<h4>{html.escape(title)}</h4>{rich}{tail}"))


def figure(title: str, fig: MplFigure) -> None:
    """The picture, on a white card so that it is legible in a dark notebook too."""
    display(Image(data=png_bytes(fig), alt=title))
    plt.close(fig)


def text(line: str) -> None:
    print(line)


def claim(id: str, entry: Claim, found: Judgement) -> None:
    """Two lines: what the paper says, and what came of it."""
    paper = "not available" if entry.published is None else f"{number(entry.published)} {entry.unit}".strip()
    if entry.reported == "memory":
        paper += " (reported from memory, unverified)"
    if found.measured is None:
        here = "not measured"
    elif found.low == found.high:
        here = f"{number(found.measured)} {entry.unit}".strip()
    else:
        here = f"{number(found.measured)} [{number(found.low)}, {number(found.high)}] {entry.unit}".strip()
    print(f"{id}: {entry.says}\n   published {paper}; measured {here}, n = {found.n}")
    print(f"   {MARKS[found.verdict]} {found.verdict}: {found.why}")


def verdicts(made: dict[str, dict[str, Any]]) -> None:
    """The closing table of a notebook: one line per entry."""
    rows = []
    for id, entry in made.items():
        if entry["kind"] == "claim":
            outcome = f"{MARKS[entry['verdict']]} {entry['verdict']}"
            detail = entry["why"]
        elif "missing" in entry:
            outcome, detail = "– not made", entry["missing"]
        else:
            outcome, detail = "made", entry["title"]
        rows.append((id, entry["kind"], outcome, detail))
    frame = pd.DataFrame(rows, columns=["id", "kind", "outcome", "why"])
    with pd.option_context("display.max_colwidth", None):
        display(HTML(frame.to_html(index=False, border=0)) if rows else _Shown("no entries", "no entries"))
