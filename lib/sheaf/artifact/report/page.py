"""Templates to bytes: the Jinja environment, the style sheet and script written into each page, and its security policy."""

import base64
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sheaf.artifact.report import pictures, text
from sheaf.artifact.report.formula import DROPS
from sheaf.artifact.report.notebook import pygments_css
from sheaf.artifact.verdict import VERDICTS

__all__ = ["LIMIT", "TEMPLATES", "render"]

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
LIMIT = 2_000_000  # bytes of a page
_NONE = "'none'"


def _hash(content: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


def _own(name: str) -> str:
    content = (TEMPLATES / name).read_text(encoding="utf-8")
    if "</" in content:
        raise ValueError(f"templates/{name} holds '</', which would end the element it is written into; split it")
    return content


@lru_cache(maxsize=1)
def _styles() -> dict[str, str]:
    shared = _own("report.css")
    light, dark = pygments_css()
    drops = "".join(f".d{i}{{vertical-align:-{i * 0.05:.2f}em}}" for i in range(DROPS + 1))
    cells = _own("notebook.css") + drops + light + f"@media (prefers-color-scheme: dark) {{{dark}}}"
    notebook = shared + cells + "@media print {.highlight * {color: inherit}}"
    return {"page": shared, "promises": shared + _own("promises.css"), "notebook": notebook}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.globals |= {
        "VERDICTS": VERDICTS, "SLUGS": pictures.SLUGS, "mark": pictures.mark, "strip": pictures.strip,
        "interval_svg": pictures.interval_svg, "interval_words": text.interval_words, "quantity": text.quantity,
        "brief": text.brief, "provenance": text.provenance, "same": lambda names: [(name, name) for name in names],
        "verdict_options": [(pictures.SLUGS[verdict], verdict) for verdict in VERDICTS],
    }  # fmt: skip
    made.filters |= {"duration": text.duration, "when": text.when, "slug": _slug, "plural": text.plural}
    return made


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name)


def render(template: str, **content: Any) -> bytes:
    """One page. Its policy admits the style sheet and script written into it, local pictures, and nothing else."""
    kind = template.partition(".")[0]
    style = _styles().get(kind, _styles()["page"])
    script = "" if kind in ("notebook", "promises") else _own("report.js")
    policy = (
        f"default-src 'none'; img-src 'self' data: file:; style-src {_hash(style)}; "
        f"script-src {_hash(script) if script else _NONE}; base-uri 'none'; form-action 'none'"
    )
    html = _environment().get_template(template).render(
        policy=policy, style=Markup(style), script=Markup(script), **content
    )  # fmt: skip
    return html.encode(errors="replace")  # a record can hold half a character
