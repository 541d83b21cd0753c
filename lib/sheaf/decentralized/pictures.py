"""Drawings of this paper: the concept, the worked example, heat maps of a network."""

import itertools
from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sheaf.common import plots
from sheaf.decentralized.cost import Cost, CostModel
from sheaf.decentralized.network import Network

__all__ = ["BANDWIDTH_BOUNDS", "DELAY_BOUNDS", "concept", "heat_maps", "worked_example"]

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
        ax.annotate(
            "",
            (0.43, stages - 1.22 - s),
            (0.43, stages - 0.98 - s),
            arrowprops={"arrowstyle": "->", "color": plots.INK},
        )
    ax.text(-0.15, stages / 2, "stages (activations flow down)", rotation=90, ha="right", va="center", fontsize=8)
    ax.text(
        groups / 2, -0.35, "micro-batch groups (gradients are averaged along a row)", ha="center", va="top", fontsize=8
    )
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


def worked_example(network: Network, model: CostModel, cost: Cost) -> Figure:
    """Figure 2: the network, the groups, the coarsened graph, one matching, and the route, for a small network.

    Args:
        network: about eight devices.
        model: for the weights written on the edges, in seconds.
        cost: of the placement to show, as `CostModel.evaluate` returns it.
    """
    pp = model.weights(network)[0].numpy()
    fig, axes = plots.figure(1, 5, width=12, height=2.9)
    spots = nx.circular_layout(nx.path_graph(network.size))
    stage_of = {d: s for s, group in enumerate(cost.groups) for d in group}
    names = {d: f"{d}\n{network.regions[d][:3]}" for d in range(network.size)}
    pairs = list(itertools.combinations(range(network.size), 2))
    fast = pp[pp > 0].min()
    _graph(axes[0], spots, [plots.GREY] * network.size, names, {p: (plots.GREY, 2.5 * fast / pp[p], "") for p in pairs})
    axes[0].set_title("(a) devices and links", fontsize=9)
    fills = [plots.COLOURS[stage_of[d]] for d in range(network.size)]
    same = {p: (plots.COLOURS[stage_of[p[0]]], 2.5, "") for p in pairs if stage_of[p[0]] == stage_of[p[1]]}
    _graph(axes[1], spots, fills, names, same)
    axes[1].set_title(f"(b) groups: COMM_DP {cost.dp:.4g} s", fontsize=9)
    corners = nx.circular_layout(nx.path_graph(len(cost.groups)))
    groups = {g: f"stage\n{g}" for g in range(len(cost.groups))}
    between = {p: _hop(model, network, cost, *p) for p in itertools.combinations(groups, 2)}
    shades = [plots.COLOURS[g] for g in groups]
    _graph(axes[2], corners, shades, groups, {p: (plots.GREY, 1.2, f"{w:.3g}") for p, w in between.items()})
    axes[2].set_title("(c) coarsened graph, s per hop", fontsize=9)
    _matching(axes[3], pp, cost, names)
    axes[3].set_title(f"(d) matching 0 to 1: {cost.hops[0]:.3g} s", fontsize=9)
    used = {(g, g + 1): (plots.COLOURS[1], 3, f"{w:.3g}") for g, w in enumerate(cost.hops)}
    _graph(axes[4], corners, shades, groups, used)
    axes[4].set_title(f"(e) route: COMM_PP {cost.pp:.4g} s", fontsize=9)
    return fig


def _hop(model: CostModel, network: Network, cost: Cost, a: int, b: int) -> float:
    """Bottleneck between two stages of a cost's groups."""
    pp = model.weights(network)[0].numpy()
    choices = itertools.permutations(cost.groups[b])
    return min(max(float(pp[x, y]) for x, y in zip(cost.groups[a], other, strict=True)) for other in choices)


def _graph(
    ax: Axes,
    spots: Mapping[int, np.ndarray],
    fills: Sequence[str],
    names: Mapping[int, str],
    edges: Mapping[tuple[int, int], tuple[str, float, str]],
) -> None:
    graph = nx.Graph()
    graph.add_nodes_from(spots)
    for (a, b), (colour, width, label) in edges.items():
        nx.draw_networkx_edges(graph, spots, [(a, b)], edge_color=colour, width=width, ax=ax, alpha=0.8)
        if label:
            (x0, y0), (x1, y1) = spots[a], spots[b]
            ax.text(0.6 * x0 + 0.4 * x1, 0.6 * y0 + 0.4 * y1, label, fontsize=7, ha="center", va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6}, color="black")  # fmt: skip
    nx.draw_networkx_nodes(graph, spots, node_color=list(fills), node_size=430, ax=ax)
    nx.draw_networkx_labels(graph, spots, labels=dict(names), font_size=6.5, font_color="white", ax=ax)
    ax.margins(0.2)
    ax.axis("off")


def _matching(ax: Axes, pp: np.ndarray, cost: Cost, names: Mapping[int, str]) -> None:
    left, right = cost.groups[0], cost.groups[1]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            chosen = i == j  # groups are listed so that the k-th of each stage form pipeline k
            ax.plot(
                [0, 1], [-i, -j], color=plots.COLOURS[1] if chosen else plots.GREY, lw=2.5 if chosen else 0.8, zorder=1
            )
            card = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            at = 0.28 if i <= j else 0.2
            ax.text(at, -i + (i - j) * at, f"{pp[a, b]:.3g}", fontsize=7, ha="center", va="center", color="black", bbox=card)
    for x, group, stage in ((0, left, 0), (1, right, 1)):
        for i, d in enumerate(group):
            ax.plot(x, -i, "o", ms=20, color=plots.COLOURS[stage], zorder=2)
            ax.text(x, -i, names[d], fontsize=6.5, color="white", ha="center", va="center", zorder=3)
    ax.set(xlim=(-0.3, 1.3), ylim=(-len(left) + 0.4, 0.6))
    ax.axis("off")
