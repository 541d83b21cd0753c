"""Pictures: one palette, one function per kind of picture; published values hollow or grey, measured ones solid."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import BoundaryNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

__all__ = [
    "COLOURS", "GREY", "INK", "blocks", "compare_points", "curves", "direct_label", "direct_labels", "figure", "heat_map",
    "intervals", "plain_log", "png_bytes", "svg_bytes",
]  # fmt: skip

# Okabe and Ito's colour-blind safe set, without its black and yellow, which vanish on dark and on light pages.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#808790"  # published values; readable on white and on black
INK = "#1f2329"  # text and axes; becomes the page's own text colour in SVG files

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": GREY, "grid.alpha": 0.25, "grid.linewidth": 0.6, "lines.linewidth": 1.6,
    "legend.frameon": False, "axes.prop_cycle": plt.cycler(color=COLOURS),
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "svg.hashsalt": "sheaf", "svg.fonttype": "path", "figure.dpi": 100,
}  # fmt: skip

_PAGE_COLOURS = f"<style>svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:#e3e6ea}}}}</style>"


def figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.2, height: float = 3.2, **options: Any
) -> tuple[Figure, Any]:
    """A figure in Sheaf's style and its axes, as ``plt.subplots`` returns them; sizes in inches.

    Sets matplotlib's style for the process: labels and legends added later have to follow it too.
    """
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def svg_bytes(fig: Figure) -> bytes:
    """The figure as SVG whose text takes the page's colour, light or dark; the same figure gives the same bytes."""
    out = io.BytesIO()
    with plt.rc_context(STYLE):
        fig.savefig(out, format="svg", metadata={"Date": None, "Creator": "Sheaf"}, bbox_inches="tight", pad_inches=0.08)
    text = re.sub(re.escape(INK), "currentColor", out.getvalue().decode())
    return re.sub(r"(<svg [^>]*>)", lambda m: m[1] + _PAGE_COLOURS, text, count=1).encode()


def png_bytes(fig: Figure, dpi: int = 90) -> bytes:
    """The figure as PNG on white, for the outputs stored in a notebook."""
    out = io.BytesIO()
    with plt.rc_context(STYLE):
        fig.savefig(
            out,
            format="png",
            dpi=dpi,
            facecolor="white",
            bbox_inches="tight",
            pad_inches=0.08,
            metadata={"Software": None},
        )
    return out.getvalue()


def direct_label(ax: Axes, x: float, y: float, text: str, colour: str, *, dx: float = 4, dy: float = 0) -> None:
    """Name a line or a mark where it stands, instead of in a legend. Offsets in points."""
    ax.annotate(text, (x, y), xytext=(dx, dy), textcoords="offset points", color=colour, va="center", fontsize=8)


def direct_labels(ax: Axes, marks: Sequence[tuple[float, float, str, str]], *, dx: float = 5, gap: float = 10) -> None:
    """Name several marks (x, y, text, colour) where they stand, apart from each other; call it when scales and limits are set.

    Names that would cover one another move up and down equally, ``gap`` points apart; offsets in points.
    """
    scale = 72 / ax.figure.dpi
    at = [scale * ax.transData.transform((x, y)) for x, y, _, _ in marks]
    heights = [float(y) for _, y in at]
    for _ in range(100):
        order = sorted(range(len(marks)), key=heights.__getitem__)
        close = [
            (low, high) for i, low in enumerate(order) for high in order[i + 1 :]
            if abs(at[low][0] - at[high][0]) < 60 and heights[high] - heights[low] < gap - 0.1
        ]  # fmt: skip
        if not close:
            break
        for low, high in close:
            push = max(0.0, gap - (heights[high] - heights[low])) / 2
            heights[low] -= push
            heights[high] += push
    for (x, y, text, colour), height, (_, own) in zip(marks, heights, at, strict=True):
        direct_label(ax, x, y, text, colour, dx=dx, dy=height - float(own))


def plain_log(axis: Axis, ticks: Sequence[float] = (1, 2, 5)) -> None:
    """Make an axis logarithmic and write its ticks as plain numbers, 1, 2 and 5 per decade."""
    name = "x" if axis is axis.axes.xaxis else "y"
    getattr(axis.axes, f"set_{name}scale")("log")
    axis.set_major_locator(LogLocator(subs=tuple(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def intervals(
    ax: Axes,
    names: Sequence[str],
    measured: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    published: ArrayLike | None = None,
    *,
    unit: str = "",
    good: tuple[float, float] | None = None,
) -> None:
    """One row per name: measured as a solid mark with its interval, published as a hollow grey mark.

    Args:
        measured, low, high: [n] estimates and 95% bounds.
        published: [n] the paper's values, NaN where it gives none.
        good: the values that would count as reproduced, shaded.
    """
    y = np.arange(len(names))[::-1]
    centre = np.asarray(measured, dtype=float)
    if good:
        ax.axvspan(*good, color=COLOURS[2], alpha=0.12, lw=0)
    bars = np.abs(np.vstack([centre - np.asarray(low, dtype=float), np.asarray(high, dtype=float) - centre]))
    ax.errorbar(centre, y, xerr=bars, fmt="o", color=COLOURS[0], capsize=3, ms=5, label="measured, 95% interval")
    if published is not None:
        ax.plot(np.asarray(published, dtype=float), y, "D", mfc="none", mec=GREY, mew=1.4, ms=6, label="published")
    ax.set_yticks(y, names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(unit)
    ax.legend(loc="best", fontsize=8)


def compare_points(
    ax: Axes, published: ArrayLike, measured: ArrayLike, name: str = "", *, index: int = 0, log: bool = False
) -> None:
    """Measured against published, one mark per cell, with the line of equality and a 10% band."""
    x, y = np.asarray(published, dtype=float), np.asarray(measured, dtype=float)
    ax.plot(
        x, y, MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)], ms=5, alpha=0.8, label=name or None
    )
    if log:
        plain_log(ax.xaxis)
        plain_log(ax.yaxis)
    if not any(line.get_gid() == "equality" for line in ax.lines):
        ends = np.array([0.4, 2.5]) * [np.nanmin(x), np.nanmax(x)]
        ax.plot(ends, ends, color=GREY, lw=1, gid="equality", zorder=0)
        ax.fill_between(ends, 0.9 * ends, 1.1 * ends, color=GREY, alpha=0.18, lw=0, zorder=0)
    ax.set_xlabel("published")
    ax.set_ylabel("measured here")


def curves(
    ax: Axes,
    x: ArrayLike,
    samples: dict[str, ArrayLike],
    *,
    published: dict[str, ArrayLike] | None = None,
    step: bool = False,
) -> None:
    """A line per name with the range of its repetitions shaded, published lines grey and dashed under them.

    Args:
        x: [n] positions.
        samples: name -> [repetitions, n].
        published: name -> [n].
    """
    steps = np.asarray(x, dtype=float)
    how: dict[str, Any] = {"drawstyle": "steps-post"} if step else {}
    for line in (published or {}).values():
        ax.plot(steps, np.asarray(line, dtype=float), color=GREY, ls=(0, (4, 2)), lw=1.2, zorder=1, **how)
    for i, (name, values) in enumerate(samples.items()):
        y = np.atleast_2d(np.asarray(values, dtype=float))
        colour = COLOURS[i % len(COLOURS)]
        at, y = (steps[: y.shape[1]], y) if not step else _changes(steps[: y.shape[1]], y)
        ax.plot(at, y.mean(axis=0), color=colour, label=name, ls=("-", "--", ":", "-.")[i % 4], zorder=3, **how)
        if len(y) > 1:
            ax.fill_between(
                at, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.2, lw=0, step="post" if step else None
            )


def _changes(at: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the positions where some line steps, and both ends: thousands of equal points make megabytes of SVG."""
    kept = np.r_[True, (np.diff(y, axis=1) != 0).any(axis=0)]
    kept[-1] = True
    return at[kept], y[:, kept]


def heat_map(
    ax: Axes,
    matrix: ArrayLike,
    *,
    bounds: Sequence[float],
    unit: str = "",
    groups: Sequence[str] | None = None,
    bar: bool = True,
    cmap: str = "cividis",
) -> None:
    """A square matrix on stated, possibly uneven colour bounds; ``groups`` names each row and is written once per run."""
    values = np.asarray(matrix, dtype=float)
    shades = plt.get_cmap(cmap)
    image = ax.imshow(
        values, cmap=shades, norm=BoundaryNorm(list(bounds), shades.N, extend="max"), interpolation="nearest"
    )
    ax.grid(visible=False)
    ax.set_xticks([])
    if groups is None:
        ax.set_yticks([])
    else:
        starts = [i for i in range(len(groups)) if i == 0 or groups[i] != groups[i - 1]]
        ends = [*starts[1:], len(groups)]
        ax.set_yticks(
            [(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)], [groups[a] for a in starts], fontsize=7
        )
        ax.tick_params(length=0)
    if bar:
        ax.figure.colorbar(image, ax=ax, shrink=0.85, label=unit, ticks=list(bounds)[:: max(1, len(bounds) // 6)])


def blocks(ax: Axes, rows: Sequence[tuple[float, float, float, str, int]], *, text_from: float = 0.0) -> None:
    """A Gantt chart: (start, length, row, label, colour index) per block; labels only on blocks longer than ``text_from``."""
    for start, length, row, label, colour in rows:
        fill = COLOURS[colour % len(COLOURS)]
        ax.barh(row, length, left=start, height=0.8, color=fill, edgecolor="white", lw=0.4)
        if label and length >= text_from:
            dark = sum(np.array(to_rgb(fill)) * (0.3, 0.59, 0.11)) < 0.6
            ax.text(
                start + length / 2, row, label, ha="center", va="center", fontsize=6, color="white" if dark else "black"
            )
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
