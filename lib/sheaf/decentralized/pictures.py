"""Drawings of this paper: the concept, the worked example, heat maps of a network."""

from collections.abc import Sequence

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sheaf.common import plots
from sheaf.decentralized.network import Network

__all__ = ["BANDWIDTH_BOUNDS", "DELAY_BOUNDS", "concept", "heat_maps"]

DELAY_BOUNDS = (0, 1, 5, 12, 25, 50, 75, 100, 150, 200, 250, 300)  # ms; the paper's scale ends at 300
BANDWIDTH_BOUNDS = (0, 0.4, 0.6, 0.8, 1, 1.2, 2, 3.2, 5, 10, 100)  # Gbit/s; uneven, as in the paper, which ends at 100

# Longitude and latitude in degrees, rounded: only for drawing.
CITIES = {
    "Oregon": (-122, 45), "Virginia": (-78, 38), "Ohio": (-91, 50), "Tokyo": (140, 36), "Seoul": (127, 43),
    "London": (0, 55), "Frankfurt": (12, 46), "Ireland": (-13, 47),
}  # fmt: skip


def _task_grid(ax: Axes, stages: int, groups: int) -> None:
    for s in range(stages):
        for g in range(groups):
            fill = plots.COLOURS[s % len(plots.COLOURS)]
            ax.add_patch(Rectangle((g, stages - 1 - s), 0.86, 0.8, facecolor=fill, alpha=0.85, lw=0))
            ax.text(g + 0.43, stages - 0.6 - s, f"{s},{g}", ha="center", va="center", fontsize=7, color="white")
    for s in range(stages - 1):
        ax.annotate("", (0.43, stages - 1.22 - s), (0.43, stages - 0.98 - s), arrowprops={"arrowstyle": "->", "color": plots.INK})
    ax.text(-0.15, stages / 2, "stages (activations flow down)", rotation=90, ha="right", va="center", fontsize=8)
    ax.text(groups / 2, -0.35, "micro-batch groups (gradients are averaged along a row)", ha="center", va="top", fontsize=8)
    ax.set(xlim=(-0.6, groups), ylim=(-0.8, stages))
    ax.axis("off")


def _city_map(ax: Axes, network: Network, cities: Sequence[str]) -> None:
    first = {city: network.regions.index(city) for city in cities}
    for i, a in enumerate(cities):
        for b in cities[i + 1 :]:
            rate = network.bandwidth[first[a], first[b]]
            (x0, y0), (x1, y1) = CITIES[a], CITIES[b]
            ax.plot([x0, x1], [y0, y1], color=plots.GREY, lw=2.2 * rate, alpha=0.55, zorder=1)
    for k, city in enumerate(cities):
        x, y = CITIES[city]
        spread = np.array([[-3, 0], [3, 0], [0, 2], [0, -2]]) * 0.9
        ax.plot(*(spread + [x, y]).T, "s", ms=5, color=plots.COLOURS[k % len(plots.COLOURS)], zorder=3)
        ax.annotate(city, (x, y), xytext=(0, 11), textcoords="offset points", ha="center", fontsize=8)
    ax.set(xlim=(-145, 165), ylim=(30, 62))
    ax.axis("off")


def concept(network: Network, *, stages: int = 4, groups: int = 4) -> Figure:
    """Figure 1: tasks (stage, micro-batch group) on the left, scattered devices on the right; a line's width is its bandwidth.

    Args:
        network: the world-wide case, whose regions are names of cities.
    """
    fig, (left, right) = plots.figure(1, 2, width=9, height=3, width_ratios=[1, 1.7])
    _task_grid(left, stages, groups)
    left.set_title("(a) tasks: what has to be placed")
    _city_map(right, network, [c for c in dict.fromkeys(network.regions) if c in CITIES])
    right.set_title("(b) devices: where it can be placed")
    return fig


def heat_maps(networks: dict[str, Network], what: str) -> Figure:
    """Figure 3, columns a ("delay", ms) and b ("bandwidth", Gbit/s): one 64 x 64 panel per case."""
    fig, axes = plots.figure(1, len(networks), width=2.2 * len(networks) + 1, height=2.5)
    for k, (ax, (title, network)) in enumerate(zip(np.ravel(axes), networks.items(), strict=True)):
        matrix = network.delay * 1e3 if what == "delay" else network.bandwidth.copy()
        np.fill_diagonal(matrix, 0 if what == "delay" else np.nan)
        last = k == len(networks) - 1
        names = network.regions if len(set(network.regions)) <= 8 else None
        plots.heat_map(
            ax, matrix, bounds=DELAY_BOUNDS if what == "delay" else BANDWIDTH_BOUNDS, bar=last, groups=names,
            unit="ms" if what == "delay" else "Gbit/s", cmap="cividis" if what == "delay" else "cividis_r",
        )  # fmt: skip
        ax.set_title(title, fontsize=8)
    return fig
