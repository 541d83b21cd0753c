"""Pictures: reproducible bytes, legible on light and dark pages."""

import re

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sheaf.common import plots


def sketch() -> bytes:
    fig, axes = plots.figure(1, 3, width=9)
    plots.intervals(axes[0], ["a", "b"], [1, 2], [0.5, 1.5], [1.5, 2.5], [1.1, np.nan], unit="x", good=(1, 2))
    plots.curves(axes[1], range(4), {"ours": np.arange(8).reshape(2, 4)}, published={"paper": np.arange(4)}, step=True)
    plots.heat_map(axes[2], np.eye(4), bounds=[0, 0.5, 1], groups=["x", "x", "y", "y"])
    found = plots.svg_bytes(fig)
    plt.close(fig)
    return found


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert sketch() == sketch()


def test_text_takes_the_colour_of_the_page() -> None:
    text = sketch().decode()
    assert "prefers-color-scheme:dark" in text and "currentColor" in text
    assert plots.INK not in text.split("</style>", 1)[1]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [*plots.COLOURS, plots.GREY])
def test_every_colour_stands_out_on_white_and_on_black(colour: str) -> None:
    assert re.fullmatch("#[0-9A-Fa-f]{6}", colour)
    white, black = 1.05 / (luminance(colour) + 0.05), (luminance(colour) + 0.05) / (luminance("#14171b") + 0.05)
    assert min(white, black) >= 1.9, (white, black)


def test_blocks_and_points_draw_every_item() -> None:
    fig, axes = plots.figure(1, 2)
    plots.blocks(axes[0], [(0, 1, 0, "f", 0), (1, 2, 1, "b", 1)])
    plots.compare_points(axes[1], [1, 2, 3], [1.1, 2.1, 2.9], "cells", log=True)
    assert len(axes[0].patches) == 2 and len(axes[1].lines) == 2
    plt.close(fig)
