"""Drawings without measurements: the overview, the butterfly masks, and the library of patterns."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from sheaf.common.plots import COLOURS, GREY, figure
from sheaf.pixelfly import masks
from sheaf.pixelfly.patterns import plan

__all__ = ["butterflies", "library", "overview"]


def overview() -> Figure:
    """From a model and a budget to a mask (paper, figure 1)."""
    fig, ax = figure(height=2.0)
    steps = [
        ("model schema", "layer types,\nshapes, operations"), ("1. budget", "each layer type gets\nits share of operations"),
        ("2. pattern", "1/4 low rank, the rest\nflat block butterfly"), ("3. training", "fixed mask,\nordinary recipe"),
    ]  # fmt: skip
    for i, (title, text) in enumerate(steps):
        box = FancyBboxPatch((i * 2.6, 0), 2.1, 1.1, boxstyle="round,pad=0.06", fc="none", ec=COLOURS[i], lw=1.6)
        ax.add_patch(box)
        ax.text(i * 2.6 + 1.05, 0.86, title, ha="center", va="center", fontsize=9, weight="bold", color=COLOURS[i])
        ax.text(i * 2.6 + 1.05, 0.36, text, ha="center", va="center", fontsize=7.5)
        if i:
            ax.annotate(
                "",
                (i * 2.6 - 0.08, 0.55),
                (i * 2.6 - 0.42, 0.55),
                arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1.4},
            )
    ax.set_xlim(-0.2, 10.1)
    ax.set_ylim(-0.2, 1.3)
    ax.axis("off")
    return fig


def _show(ax: Axes, values: np.ndarray, title: str) -> None:
    top = int(values.max())
    ax.imshow(np.ma.masked_equal(values, 0), cmap=ListedColormap(COLOURS[:top] or COLOURS[:1]), vmin=1, vmax=max(top, 1.5),
              interpolation="nearest")  # fmt: skip
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(GREY)
    ax.set_title(title, fontsize=8.5)


def _by_stride(cells: int, max_stride: int, block: int) -> np.ndarray:
    """1 on the diagonal, 2, 3, ... for the strides, as elements."""
    values = np.eye(cells, dtype=int)
    for k, stride in enumerate(masks.strides(max_stride)):
        values[masks.butterfly_factor(cells, stride) & (values == 0)] = k + 2
    return np.kron(values, np.ones((block, block), dtype=int))


def butterflies(n: int = 32, block: int = 4) -> Figure:
    """A flat butterfly, one factor of a block butterfly, and a flat block butterfly; a colour per stride (paper, figure 2)."""
    fig, axes = figure(1, 3, height=2.7)
    _show(axes[0], _by_stride(n, n // 2, 1), f"flat: all strides of {n} elements")
    factor = masks.butterfly_factor(n // block, 2)
    _show(axes[1], np.kron(factor, np.ones((block, block), dtype=int)), f"block: one factor, blocks of {block}")
    _show(axes[2], _by_stride(n // block, n // block // 2, block), f"flat block: all strides of {n // block} blocks")
    return fig


def library(cells: int = 16, seed: int = 0) -> Figure:
    """The simple masks, and the known methods that combine them (paper, figure 3)."""
    rng = np.random.default_rng(seed)
    simple = {
        "local": masks.local(cells, cells, 3), "global": masks.global_(cells, cells, 1),
        "random": masks.random_blocks(cells, cells, 3 * cells, rng), "strided": masks.strided(cells, cells, 4),
        "butterfly": masks.flat_butterfly(cells, 4), "block diagonal": masks.block_diagonal(cells, cells, 4),
        "BigBird": plan("bigbird", cells, cells, 1, 0.35, rng=rng).mask,
        "Longformer": plan("longformer", cells, cells, 1, 0.35).mask,
    }  # fmt: skip
    fig, axes = figure(2, 4, height=4.0)
    for ax, (title, mask) in zip(axes.flat, simple.items(), strict=True):
        _show(ax, np.asarray(mask, dtype=int), title)
    return fig
