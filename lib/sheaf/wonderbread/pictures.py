"""Pictures of the data: the way from a recording to six tasks, and one demonstration as a strip of frames."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from PIL import Image

from sheaf.common import plots
from sheaf.wonderbread.dsl import describe
from sheaf.wonderbread.trace import Demo, StateData, target

__all__ = ["filmstrip", "pipeline"]

SOURCES = {"person or policy\ncarries out a workflow": (0.0, 1.0), "recording\nstates, actions,\nscreenshots": (1.0, 1.0),
           "procedure\nwritten by a person": (1.0, 0.0)}  # fmt: skip
TASKS = {"write the procedure": 2.0, "cut recordings apart": 1.5, "answer questions": 1.0, "check a recording": 0.5,
         "rank procedures": 0.0, "improve a procedure": -0.5}  # fmt: skip
FAMILIES = (("documentation", 1.75, 0), ("knowledge transfer", 0.75, 1), ("improvement", -0.25, 2))


def pipeline() -> Figure:
    """Figure 1 redrawn: what is recorded, and the six tasks in three families that are built on it."""
    fig, ax = plots.figure(width=8.6, height=3.3)
    for text, (x, y) in SOURCES.items():
        _box(ax, x, y, text, (0.82, 0.62), plots.GREY)
    for text, y in TASKS.items():
        family = next(k for _, at, k in FAMILIES if abs(at - y) <= 0.25)
        _box(ax, 2.15, y, text, (0.78, 0.36), plots.COLOURS[family])
    arrow = {"arrowstyle": "-|>", "color": plots.GREY, "lw": 1.2}
    ax.annotate("", (0.56, 1), (0.44, 1), arrowprops=arrow)
    ax.annotate("", (0.56, 0.1), (0.3, 0.66), arrowprops=arrow)
    for y in (2.0, 1.5, 1.0, 0.5, -0.5):
        ax.annotate("", (1.73, y), (1.44, 1 + 0.12 * (y - 1)), arrowprops=arrow)
    for y in (1.0, 0.5, 0.0, -0.5):
        ax.annotate("", (1.73, y), (1.44, 0.1 * y), arrowprops=arrow | {"ls": "--"})
    for name, y, k in FAMILIES:
        ax.text(2.62, y, name, color=plots.COLOURS[k], fontsize=9, va="center")
    ax.set(xlim=(-0.45, 3.3), ylim=(-0.8, 2.3))
    ax.axis("off")
    return fig


def _box(ax: Axes, x: float, y: float, text: str, size: tuple[float, float], colour: str) -> None:
    corner = (x - size[0] / 2, y - size[1] / 2)
    ax.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0.02", fc="none", ec=colour, lw=1.6))
    ax.text(x, y, text, ha="center", va="center", fontsize=8)


def filmstrip(demo: Demo, most: int = 9) -> Figure:
    """The key frames of a demonstration with the sentence of the action that follows; a ring where it points.

    Args:
        most: frames drawn; a longer demonstration is thinned evenly, first and last kept.
    """
    states, actions = demo.states, demo.actions
    shown = np.unique(np.linspace(0, len(states) - 1, min(most, len(states))).round().astype(int))
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    fig, axes = plots.figure(rows, columns, width=3.3 * columns, height=2.2 * rows)
    flat = np.ravel(axes)
    for ax in flat:
        ax.axis("off")
    for ax, k in zip(flat, shown, strict=False):
        path = demo.screenshot(int(k))
        if path is not None:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            ax.imshow(pixels)
            if k < len(actions):
                _ring(ax, demo, int(k), pixels.shape[1])
        sentence = describe(actions[k]) if k < len(actions) else "(end)"
        ax.set_title(f"{k}  {sentence[:52]}{'…' if len(sentence) > 52 else ''}", fontsize=7.5, fontweight="normal")
    return fig


def _ring(ax: Axes, demo: Demo, k: int, width: int) -> None:
    element, data = target(demo.actions[k]), demo.states[k].data
    if element is None or element.x is None or element.y is None or not isinstance(data, StateData) or not data.window_size:
        return
    scale = width / float(data.window_size["width"])
    x, y = (element.x + (element.width or 0) / 2) * scale, (element.y + (element.height or 0) / 2) * scale
    ax.add_patch(Circle((x, y), 0.035 * width, fc="none", ec=plots.COLOURS[1], lw=1.8))
