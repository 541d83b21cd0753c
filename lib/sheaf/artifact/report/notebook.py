"""An executed notebook as a page of its own: sanitised, without scripts, styles or pictures from elsewhere."""

import logging
import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from markupsafe import Markup

from sheaf.artifact.report.files import href
from sheaf.artifact.report.formula import formula

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

__all__ = ["ACTIVE", "notebook_body", "pygments_css"]

ACTIVE = ("application/javascript", "application/vnd.jupyter.widget-view+json", "text/vnd.mermaid")  # need a script
OUTPUT_LIMIT = 40_000  # characters of one text output that are shown

_TAGS = frozenset([
    "a", "abbr", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "div", "dl", "dt", "em",
    "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "mark", "ol",
    "p", "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td",
    "tfoot", "th", "thead", "tr", "tt", "u", "ul", "var",
])  # fmt: skip
_ATTRIBUTES = {
    "*": ["class", "id", "title", "lang", "dir", "align"],
    "a": ["href"],
    "img": ["src", "alt", "width", "height"],
    "td": ["colspan", "rowspan"],
    "th": ["colspan", "rowspan", "scope"],
    "ol": ["start"],
}
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|svg\+xml);base64,[A-Za-z0-9+/=\s]+")
_HIDDEN = re.compile(r"<(style|script|template|noscript)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_MATH = re.compile(
    r"\$\$(?P<block>.+?)\$\$|\\\[(?P<bracket>.+?)\\\]|\\\((?P<paren>.+?)\\\)"
    r"|(?<![\\$\w])\$(?P<inline>(?=\S)[^$\n]+?(?<=\S))\$(?![\d$])",
    re.DOTALL,
)


def _clean(html: object) -> Markup:
    """HTML of a Markdown cell or an output with an allow-list of tags and attributes; everything else becomes text."""
    import bleach

    text = html.decode() if isinstance(html, bytes) else str(html)
    return Markup(
        bleach.clean(
            _HIDDEN.sub("", text),
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            protocols={"http", "https", "mailto", "data"},  # data is for pictures; _mend_link takes it from links
        )
    )


def _shortened(nb: Any) -> Any:
    """A copy without outputs that need a script, and with very long text outputs cut."""
    copy = deepcopy(nb)
    for cell in copy.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in ACTIVE:
                if data.pop(kind, None) is not None and not data:
                    data["text/plain"] = "(an interactive output; open the notebook in Jupyter to see it)"
            if len(data) > 1 and "text/html" in data and any(k.startswith("image/") for k in data):
                del data["text/html"]
            output.get("metadata", {}).pop("text/html", None)  # may ask for an iframe
            for holder, key in ((output, "text"), (data, "text/plain")):
                value = holder.get(key)
                if isinstance(value, str) and len(value) > OUTPUT_LIMIT:
                    left = len(value) - OUTPUT_LIMIT
                    holder[key] = value[:OUTPUT_LIMIT] + f"\n… {left} more characters in the notebook file"
    return copy


def _draw_formulas(soup: "BeautifulSoup") -> None:
    from bs4 import BeautifulSoup

    for area in soup.select(".rendered_html, .output_latex"):
        for node in area.find_all(string=_MATH):
            if node.find_parent(["pre", "code", "a"]):
                continue
            html, at = Markup(""), 0
            text = str(node)
            for found in _MATH.finditer(text):
                block = found["block"] or found["bracket"]
                html += text[at : found.start()]
                html += formula(block or found["paren"] or found["inline"], bool(block))
                at = found.end()
            html += text[at:]
            node.replace_with(*list(BeautifulSoup(str(html), "html.parser").contents))


def _mend_link(link: "Tag", source: Path, page: Path, siblings: dict[str, Path]) -> None:
    """Point a notebook's relative link at the page or file it means; one that leads nowhere becomes plain text."""
    target = str(link.get("href", ""))
    try:
        parts = urlsplit(target)
    except ValueError:
        link.attrs.pop("href", None)
        return
    if parts.scheme in ("http", "https", "mailto"):
        link["rel"] = "noopener noreferrer"
        return
    if parts.scheme or parts.netloc or "\0" in target:
        link.attrs.pop("href", None)
    elif parts.path:
        name = unquote(parts.path)
        file = (source.parent / name).resolve()
        if name in siblings:
            link["href"] = href(siblings[name], page) + (f"#{parts.fragment}" if parts.fragment else "")
        elif file.is_file() and any((folder / "pyproject.toml").is_file() for folder in file.parents):
            link["href"] = href(file, page)
        else:
            link.attrs.pop("href", None)


def _mend_picture(image: "Tag") -> None:
    if not _PICTURE.fullmatch(str(image.get("src", ""))):
        image.replace_with(f"[picture: {image.get('alt') or 'not stored in the notebook'}]")
        return
    if not image.get("alt"):
        image["alt"] = "output of the cell above; its text says what it shows"
    for side in ("width", "height"):
        if not str(image.get(side, "1")).isdigit():
            del image[side]


def notebook_body(file: Path, source: Path, page: Path, siblings: dict[str, Path], limit: int) -> Markup:
    """The cells of an executed notebook as sanitised HTML.

    Args:
        file: the executed notebook.
        source: where its source stands, against which its relative links are read.
        page: the file the HTML will be part of.
        siblings: name of a linked notebook -> its page.
        limit: bytes the HTML may have; the largest pictures are left out until it fits.

    Raises:
        ValueError: the file is not a notebook.
    """
    import nbformat
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter

    quiet = logging.getLogger(f"{__name__}.nbconvert")
    quiet.setLevel(logging.ERROR)  # it warns of pictures without a text; they get one below
    exporter = HTMLExporter(template_name="basic", sanitize_html=True, log=quiet)
    exporter.register_filter("clean_html", _clean)  # nbconvert's own list lacks headings, paragraphs and pictures
    try:
        nb = nbformat.read(file, as_version=4)
        html, _ = exporter.from_notebook_node(_shortened(nb))
    except Exception as error:  # nbformat and nbconvert raise a dozen unrelated kinds for a malformed file
        raise ValueError(f"{file.name} is not a notebook ({type(error).__name__}); run it again") from error
    soup = BeautifulSoup(html, "html.parser")
    for link in soup.find_all("a"):
        _mend_link(link, source, page, siblings)
    for image in soup.find_all("img"):
        _mend_picture(image)
    for part in soup.find_all(True):
        for name in [n for n in part.attrs if n == "style" or n.startswith("on")]:
            del part[name]  # nbconvert's own prompts; the page's policy refuses inline styles
        if part.name in ("script", "style", "iframe", "object", "embed", "base", "meta", "link", "form"):
            part.decompose()
    _draw_formulas(soup)
    for scrolling in soup.select("pre, .output_html"):
        scrolling["tabindex"] = "0"  # so that the keyboard can scroll it
    while len(str(soup).encode()) > limit:
        largest = max(soup.find_all("img"), key=lambda image: len(str(image)), default=None)
        if largest is None:
            raise ValueError(f"{file.name} is too long for a page of {limit} bytes; open it in Jupyter")
        largest.replace_with("[a picture too large for this page; open the notebook to see it]")
    return Markup(str(soup))


def pygments_css() -> tuple[str, str]:
    """Style sheets of highlighted code, for light and for dark pages."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="xcode").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return light, dark
