"""Small pictures drawn as SVG: verdict marks, a claim's interval against its criterion, the score board for the README."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from sheaf.artifact.report.text import number, plural, quantity
from sheaf.artifact.report.view import Claim, Row
from sheaf.artifact.verdict import (
    INCONCLUSIVE,
    NO_VERDICT,
    NOT_REPRODUCED,
    OUT_OF_REACH,
    REPRODUCED,
    VERDICTS,
    parse_criterion,
)

__all__ = ["SLUGS", "board_svg", "interval_svg", "mark", "strip"]

SLUGS = {REPRODUCED: "yes", NOT_REPRODUCED: "no", INCONCLUSIVE: "open", OUT_OF_REACH: "far", NO_VERDICT: "none"}

# Each verdict has a shape of its own, so that the board reads without colour. Drawn in a 14 by 14 box.
_SHAPES = {
    REPRODUCED: '<circle class="f" cx="7" cy="7" r="6.2"/><path class="k" d="M3.9 7.3l2.2 2.3 4-4.8"/>',
    NOT_REPRODUCED: (
        '<rect class="f" x="1" y="1" width="12" height="12" rx="1.5"/>'
        '<path class="k" d="M4.2 4.2l5.6 5.6M9.8 4.2l-5.6 5.6"/>'
    ),
    INCONCLUSIVE: '<path class="s" d="M7 1l6 6-6 6-6-6z"/><path class="f" d="M7 1l6 6-6 6z"/>',
    OUT_OF_REACH: '<circle class="s" cx="7" cy="7" r="5.4"/>',
    NO_VERDICT: '<path class="s" d="M2.5 7h9"/>',
}


def mark(verdict: str, size: int = 14) -> Markup:
    """The verdict's shape; decoration beside its name, so hidden from screen readers."""
    return Markup('<svg class="mark {}" width="{}" height="{}" viewBox="0 0 14 14" aria-hidden="true">{}</svg>').format(
        SLUGS[verdict], size, size, Markup(_SHAPES[verdict])
    )


def strip(counts: dict[str, int]) -> Markup:
    """One mark per claim, verdict by verdict."""
    said = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]) or "no claims"
    marks = Markup("").join(mark(v) for v in VERDICTS for _ in range(counts[v]))
    return Markup('<span class="strip" role="img" aria-label="{}">{}</span>').format(said, marks)


def _domain(claim: Claim, low: float, high: float) -> tuple[float, float, bool]:
    """The part of the axis shown, and whether it is logarithmic: when all is positive and spans a factor of 30."""
    points = [claim.measured, claim.low, claim.high, low, high]
    if isinstance(claim.published, float):
        points.append(claim.published)
    values = [p for p in points if p is not None and math.isfinite(p)]
    first, last = min(values), max(values)
    if first > 0 and last / first >= 30:
        span = math.log10(last) - math.log10(first)
        return math.log10(first) - 0.12 * span, math.log10(last) + 0.12 * span, True
    pad = 0.15 * (last - first) or 0.5 * abs(last) or 1.0
    return first - pad, last + pad, False


def interval_svg(claim: Claim) -> Markup:
    """Criterion shaded, published hollow, measured solid with its bar; empty when nothing was measured."""
    try:
        rule = parse_criterion(claim.criterion)
    except ValueError:
        return Markup("")
    if claim.measured is None or claim.low is None or claim.high is None:
        return Markup("")
    first, last, log = _domain(claim, rule.low, rule.high)
    left, width = 6.0, 228.0

    def x(value: float) -> float:
        if log:
            value = math.log10(value) if value > 0 else -math.inf
        return round(left + width * min(1.0, max(0.0, (value - first) / (last - first))), 1)

    parts = [
        Markup('<rect class="good" x="{}" y="4" width="{}" height="26"/>').format(
            x(rule.low), round(max(x(rule.high) - x(rule.low), 1.5), 1)
        ),
        Markup('<path class="axis" d="M{} 30H{}"/>').format(left, left + width),
    ]
    bounds = [b for b in (rule.low, rule.high) if math.isfinite(b)]
    for i, bound in enumerate(bounds):
        at = x(bound)
        anchor = "start" if at < 40 else "end" if at > 200 else "middle"
        if len(bounds) == 2 and abs(x(bounds[0]) - x(bounds[1])) < 50:  # two labels that would touch lean apart
            anchor = "end" if (i == 0) == (rule.low <= rule.high) and at > 40 else "start" if at < 200 else "end"
        parts.append(Markup('<path class="bound" d="M{0} 4V33"/>').format(at))
        parts.append(Markup('<text x="{}" y="43" text-anchor="{}">{}</text>').format(at, anchor, number(bound)))
    if isinstance(claim.published, float):
        parts.append(
            Markup('<path class="published" d="M{} 6.5l4.5 4.5-4.5 4.5-4.5-4.5z"/>').format(x(claim.published))
        )
    low, high = x(claim.low), x(claim.high)
    if high > low:
        parts.append(Markup('<path class="bar" d="M{0} 22H{1}M{0} 18.5V25.5M{1} 18.5V25.5"/>').format(low, high))
    parts.append(Markup('<circle class="measured" cx="{}" cy="22" r="4"/>').format(x(claim.measured)))
    said = f"measured {quantity(claim.measured, claim.unit)}, interval {number(claim.low)} to {number(claim.high)}"
    if isinstance(claim.published, float):
        said += f", published {quantity(claim.published, claim.unit)}"
    said += f"; counts as reproduced: {claim.criterion}" + ("; logarithmic axis" if log else "")
    return Markup('<svg class="interval" viewBox="0 0 240 46" role="img" aria-label="{}">{}</svg>').format(
        said, Markup("").join(parts)
    )


_BOARD_STYLE = """
svg{--page:#fff;--ink:#1c2024;--soft:#59626d;--line:#d9dce1;--yes:#0a6b45;--no:#a8320e;--open:#7a5a00;--far:#59626d}
@media(prefers-color-scheme:dark){svg{--page:#15181c;--ink:#e6e8eb;--soft:#a2abb6;--line:#343a42;--yes:#58c495;--no:#ff9275;--open:#e3b341;--far:#a2abb6}}
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:var(--ink)}
.soft{fill:var(--soft)}.head{font-size:11.5px;fill:var(--soft)}.big{font-size:17px;font-weight:600}.id{font-weight:600}
.page{fill:var(--page);stroke:var(--line)}.line{stroke:var(--line)}.num{text-anchor:end}
.yes{--c:var(--yes)}.no{--c:var(--no)}.open{--c:var(--open)}.far,.none{--c:var(--far)}
.f{fill:var(--c)}.s{fill:none;stroke:var(--c);stroke-width:1.6}.k{fill:none;stroke:var(--page);stroke-width:1.8;stroke-linecap:round}
"""
_WIDTH, _ROW, _PER_LINE = 880, 38, 17


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _board_row(row: Row, top: float) -> tuple[list[Markup], float]:
    parts, y = [], top
    if not row.runs:
        parts.append(Markup('<text x="24" y="{}" class="soft">{}</text>').format(y + 19, _shortened(row.paper, 32)))
        parts.append(Markup('<text x="390" y="{}" class="soft">not yet</text>').format(y + 19))
        return parts, y + _ROW - 10
    for run in row.runs:
        parts.append(Markup('<text x="24" y="{}" class="id">{}</text>').format(y + 17, _shortened(row.paper, 32)))
        parts.append(Markup('<text x="24" y="{}" class="head">{}</text>').format(y + 33, _shortened(row.title, 42)))
        parts.append(Markup('<text x="320" y="{}" class="soft">{}</text>').format(y + 24, run.profile))
        said = ["record damaged"] if run.damaged else [v for v in VERDICTS for _ in range(run.counts[v])]
        if run.damaged:
            parts.append(Markup('<text x="390" y="{}">record damaged</text>').format(y + 24))
        lines: Sequence[Sequence[str]] = (
            [] if run.damaged else [said[i : i + _PER_LINE] for i in range(0, len(said), _PER_LINE)]
        )
        for i, line in enumerate(lines):
            for j, verdict in enumerate(line):
                parts.append(
                    Markup('<g class="{}" transform="translate({} {})">{}</g>').format(
                        SLUGS[verdict], 390 + 17 * j, y + 12 + 18 * i, Markup(_SHAPES[verdict])
                    )
                )
        for kind, at in (("table", 752), ("figure", 848)):
            made, listed = run.tally(kind)
            parts.append(Markup('<text x="{}" y="{}" class="num">{} of {}</text>').format(at, y + 24, made, listed))
        y += _ROW + 6 + 18 * max(0, len(lines) - 1)
    return parts, y


def board_svg(rows: Sequence[Row]) -> str:
    """The score board as a picture of its own: its own background, one shape per claim, a legend. Same rows, same bytes."""
    total = sum(len(run.claims) for row in rows for run in row.runs)
    done = sum(bool(row.runs) for row in rows)
    parts = [Markup('<text x="24" y="38" class="big">Score board</text>')]
    parts.append(
        Markup('<text x="856" y="38" class="soft num">{} of {}, {}; one mark per claim</text>').format(
            done, plural(len(rows), "paper"), plural(total, "claim")
        )
    )
    heads = (("24", "paper", ""), ("320", "profile", ""), ("390", "claims", ""), ("752", "tables made", " num"))
    for at, text, extra in (*heads, ("848", "figures made", " num")):
        parts.append(Markup('<text x="{}" y="68" class="head{}">{}</text>').format(at, extra, text))
    y = 78.0
    for row in rows:
        parts.append(Markup('<path class="line" d="M24 {}H856"/>').format(y))
        drawn, y = _board_row(row, y)
        parts += drawn
    parts.append(Markup('<path class="line" d="M24 {}H856"/>').format(y))
    x = 24
    for verdict in VERDICTS:
        shape = Markup(_SHAPES[verdict])
        parts.append(
            Markup('<g class="{}" transform="translate({} {})">{}</g>').format(SLUGS[verdict], x, y + 15, shape)
        )
        parts.append(Markup('<text x="{}" y="{}" class="soft">{}</text>').format(x + 21, y + 27, verdict))
        x += 46 + 7 * len(verdict)
    height = round(y + 46)
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" '
            'aria-label="Score board of the papers">\n<style>{style}</style>\n'
            '<rect class="page" x="0.5" y="0.5" width="{ww}" height="{hh}" rx="8"/>\n{body}\n</svg>\n'
        ).format(
            w=_WIDTH, h=height, ww=_WIDTH - 1, hh=height - 1, style=Markup(_BOARD_STYLE), body=Markup("\n").join(parts)
        )
    )
