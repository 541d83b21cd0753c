"""LaTeX formulas to inline SVG with matplotlib's mathtext, so that a page needs no network and no script to show them."""

import re
from collections.abc import Iterable
from functools import lru_cache

from markupsafe import Markup

__all__ = ["DROPS", "formula"]

SIZE = 200.0  # units the outline is drawn in, rounded to whole ones; the page scales it to its own text
DROPS = 30  # classes d0 ... d30 of the style sheet, each a twentieth of an em below the line
_SPELLINGS = (
    (r"\\[dt]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\[lr]Vert(?![a-zA-Z])", r"\\Vert "),
    (r"\\[lr]vert(?![a-zA-Z])", r"\\vert "),
    (r"\\(le|ge|ne)(?![a-zA-Z])", r"\\\1q"),
    (r"\\dots(?![a-zA-Z])", r"\\ldots"),
    (r"\\(?:[bB]igg?[lr]?|displaystyle|limits|nolimits)(?![a-zA-Z])", ""),
    (r"\\operatorname\*?(?=\s*\{)", r"\\mathrm"),
    (r"\s+", " "),
)


@lru_cache(maxsize=4096)
def formula(tex: str, block: bool = False) -> Markup:
    """A formula as an SVG outline in the text's colour; as readable LaTeX where mathtext does not know a command.

    Args:
        tex: LaTeX without its dollar signs.
        block: on a line of its own.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    clean = tex.strip()
    for pattern, plain in _SPELLINGS:
        clean = re.sub(pattern, plain, clean)
    shape = "block" if block else "inline"
    try:
        path = TextPath((0, 0), f"${clean}$", prop=FontProperties(size=SIZE, math_fontfamily="stix"))
    except (ValueError, RuntimeError):  # mathtext's parse errors; a symbol its font lacks
        return Markup('<code class="tex {}">{}</code>').format(shape, tex.strip())
    if not len(path.vertices):
        return Markup('<code class="tex {}">{}</code>').format(shape, tex.strip())
    box = path.get_extents()
    above, below = max(box.y1, 0.0), max(-box.y0, 0.0)
    commands = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    drawn = []
    for vertices, code in path.iter_segments(curves=True, simplify=False):
        points = "" if code == 79 else " ".join(f"{v:.0f}" for v in _flipped(vertices))
        drawn.append(commands[int(code)] + points)
    # the depth below the line is a class, since the page's policy refuses style attributes
    return Markup(
        '<svg class="tex {shape} d{drop}" role="img" aria-label="{tex}" width="{w:.3f}em" height="{h:.3f}em" '
        'viewBox="0 {top:.0f} {vw:.0f} {vh:.0f}"><path d="{d}"/></svg>'
    ).format(
        shape=shape, drop=min(DROPS, round(below / SIZE * 20)), tex=tex.strip(), w=box.x1 / SIZE, h=(above + below) / SIZE,
        top=-above, vw=box.x1, vh=above + below, d="".join(drawn),
    )  # fmt: skip


def _flipped(vertices: Iterable[float]) -> list[float]:
    """SVG's y axis points down."""
    return [float(-v if i % 2 else v) for i, v in enumerate(vertices)]
