"""Files that a record names: only those inside its folder, only as they were recorded, and only a readable piece."""

import csv
import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sheaf.artifact.parts import inside
from sheaf.artifact.record import file_digest

__all__ = ["Preview", "check", "href", "preview", "svg_problem", "svg_size"]

COLUMNS = 24  # shown of a wide table
CELL = 160  # characters shown of a long cell
ACTIVE_SVG = {"script", "foreignobject", "handler", "iframe", "object", "embed", "a", "set", "animate", "animatetransform",
              "animatemotion", "discard", "html", "body"}  # fmt: skip
FETCHING_STYLE = re.compile(r"@import|url\(\s*['\"]?(?!#)", re.IGNORECASE)


@dataclass(frozen=True)
class Preview:
    """The top of a CSV file. ``rows`` and ``columns`` count what the file holds, not what is shown."""

    header: list[str]
    body: list[list[str]]
    numeric: list[bool]
    rows: int
    columns: int


def check(folder: Path, name: object, sha256: object) -> tuple[Path | None, str]:
    """The file if it is what was recorded, else None with what is wrong, in a sentence's second half."""
    path = inside(folder, name)
    if path is None:
        return None, "its file is not in the results folder"
    if file_digest(path) != sha256:
        return None, "its file changed after it was recorded"
    return path, ""


def href(path: Path, page: Path) -> str:
    """A relative address of ``path`` as seen from the page's file, safe to put in an attribute."""
    return quote(os.fsencode(os.path.relpath(path.resolve(), page.parent.resolve())))


def svg_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an SVG in CSS pixels, so that a page keeps its place while the picture loads; None if unsaid."""
    with path.open("rb") as file:
        head = file.read(4096).decode(errors="replace")
    sides = []
    for side in ("width", "height"):
        found = re.search(rf"<svg\b[^>]*?\s{side}=[\"']([\d.]{{1,9}})(pt|px)?[\"']", head)
        try:
            sides.append(round(float(found[1]) * (4 / 3 if found[2] == "pt" else 1)) if found else 0)
        except ValueError:
            return None
    return (sides[0], sides[1]) if all(sides) else None


def svg_problem(path: Path) -> str:
    """Why an SVG file is not to be opened, in a sentence's second half; empty for a plain drawing.

    A page shows it as a picture, where nothing in it runs, and links to it, where everything would.
    """
    data = path.read_bytes()
    if b"<!ENTITY" in data:
        return "its file defines entities, which no drawing of ours does"
    try:
        parts = list(ElementTree.fromstring(data).iter())
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError):
        return "its file is not SVG"
    for part in parts:
        tag = part.tag.rpartition("}")[2].lower() if isinstance(part.tag, str) else ""
        names = {name.rpartition("}")[2].lower(): value for name, value in part.attrib.items()}
        styles = f"{names.get('style', '')} {part.text if tag == 'style' else ''}"
        leads = names.get("href", names.get("src", "#")).strip().lower()
        if tag in ACTIVE_SVG or any(name.startswith("on") for name in names) or not leads.startswith(("#", "data:image/png")):
            return f"its file holds something that acts ({tag})"
        if FETCHING_STYLE.search(styles):
            return f"its file fetches something ({tag})"
    return ""


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == ""
    return True


def _cut(text: str) -> str:
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def preview(path: Path, rows: int = 20) -> Preview:
    """The first rows and columns of a CSV file, long cells cut.

    Raises:
        ValueError: the file is not CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            body, total = [], 0
            for line in lines:
                total += 1
                if total <= rows:
                    body.append([_cut(cell) for cell in (line + [""] * len(header))[: min(len(header), COLUMNS)]])
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not a CSV file in UTF-8 ({error}); run its notebook again") from None
    shown = header[:COLUMNS]
    numeric = [bool(body) and all(_number(line[i]) for line in body) for i in range(len(shown))]
    return Preview([_cut(cell) for cell in shown], body, numeric, total, len(header))
