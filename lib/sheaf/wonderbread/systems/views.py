"""What a system may look at: the frames of a recording, without what its ids, clocks and file names give away."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl, unquote, urlsplit

from sheaf.wonderbread.trace import Demo, Element, Item, elements

__all__ = ["Frame", "Turn", "detours", "element_name", "element_noun", "frame_of", "frames_of", "is_success", "turns_of"]

SUCCESS = re.compile(
    r"\b(?:success(?:ful(?:ly)?)?|has been|have been|was (?:added|changed|deleted|created|saved|updated|approved|sent|\w+ed)"
    r"|were \w+ed|thank you|(?:is|are) now \w+|completed|saved)\b",
    re.IGNORECASE,
)
FIELDS = ("input", "textarea", "select")
BUTTONS = ("submit", "button", "reset", "image")
BOXES = ("checkbox", "radio")


@dataclass(frozen=True)
class Frame:
    """One key frame as read from its state: address, title, visible elements."""

    url: str
    tab: str
    elements: tuple[Element, ...]

    @property
    def page(self) -> str:
        """Title of the page without the name of the site behind a bar or dash; the last part of the path without one."""
        title = re.split(r"\s+[|–—-]\s+", self.tab.strip())[0]
        return title or next((part for part in reversed(self.path) if not part.isdecimal()), "start")

    @cached_property
    def path(self) -> tuple[str, ...]:
        return tuple(unquote(part) for part in urlsplit(self.url).path.split("/") if part)

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query))

    @cached_property
    def place(self) -> str:
        """The address without query and fragment."""
        parts = urlsplit(self.url)
        return f"{parts.netloc}{parts.path}".rstrip("/")

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """What can be read, top to bottom as stored: texts and the values of fields."""
        return tuple(" ".join(e.text.split()) for e in self.elements if e.text and e.text.strip())

    @cached_property
    def text(self) -> str:
        return "\n".join((self.tab, *self.texts))

    @cached_property
    def fields(self) -> dict[str, Element]:
        """Fields that hold a value (no buttons), by xpath."""
        held = (e for e in self.elements if (e.tag or "").lower() in FIELDS and (e.type or "").lower() not in BUTTONS)
        return {e.xpath: e for e in held if e.xpath}

    @cached_property
    def shape(self) -> tuple[str, frozenset[tuple[str, str]]]:
        """Address and everything that can be read: equal for a page seen again unchanged."""
        return self.url, frozenset((e.xpath or "", e.text or "") for e in self.elements)

    def name_of(self, element: Element) -> str:
        """Name of an element; a field without one takes that of the label left of it or above it."""
        if own := element_name(element):
            return own
        if (element.tag or "").lower() not in FIELDS:
            return ""
        x, y = element.x or 0.0, element.y or 0.0
        near = [
            (abs((e.y or 0) - y) + abs((e.x or 0) - x) / 4, e.text)
            for e in self.elements
            if e.tag == "label" and e.text and abs((e.y or 0) - y) <= 48 and (e.x or 0) <= x + 8 and (e.y or 0) <= y + 16
        ]
        return _clean(min(near)[1]) if near else ""

    @property
    def successes(self) -> tuple[str, ...]:
        """Texts that read like a confirmation."""
        plain = (e for e in self.elements if (e.tag or "") not in (*FIELDS, "button", "a", "label"))
        return tuple(e.text for e in plain if e.text and is_success(e.text))


@dataclass(frozen=True)
class Turn:
    """One action between the frame before it and the frame after it; a cut recording may lack either."""

    before: Frame | None
    action: Item
    after: Frame | None


def frame_of(state: Item) -> Frame:
    """The frame of a state item.

    Raises:
        TraceError: the item is an action, or its elements cannot be read.
    """
    return Frame(getattr(state.data, "url", None) or "", getattr(state.data, "tab", None) or "", tuple(elements(state)))


def frames_of(items: Iterable[Item]) -> list[Frame]:
    """The frames among these items; actions (the Cmd+Tab between recordings too) are passed over unread."""
    return [frame_of(item) for item in items if item.type == "state"]


def turns_of(demo: Demo) -> list[Turn]:
    """The actions of a demonstration, each with its neighbouring frames, by place and not by id."""
    items = list(demo.trace.trace)
    frames = {i: frame_of(item) for i, item in enumerate(items) if item.type == "state"}
    return [Turn(frames.get(i - 1), item, frames.get(i + 1)) for i, item in enumerate(items) if item.type == "action"]


def detours(frames: Sequence[Frame]) -> list[bool]:
    """[n - 1] for each step from a frame to the next: whether it belongs to a way out and back that changed nothing.

    A way out and back leaves a page, at least by its address, and ends on it with all that can be read as before;
    one on which a confirmation showed up counts as work.
    """
    idle = [False] * max(0, len(frames) - 1)
    i = 0
    while i < len(frames) - 1:
        back = i
        for j in range(i + 2, len(frames)):
            between = frames[i + 1 : j]
            news = any(set(f.successes) - set(frames[i].successes) for f in between)
            if frames[j].shape == frames[i].shape and any(f.url != frames[i].url for f in between) and not news:
                back = j
        for k in range(i, back):
            idle[k] = True
        i = max(back, i + 1)
    return idle


def is_success(text: str) -> bool:
    """Whether a text reads like the confirmation of something done."""
    return len(text) <= 300 and SUCCESS.search(text) is not None


def element_name(element: Element) -> str:
    """What a person would call an element: its label, else its text (not a field's value), placeholder or role."""
    tag, kind = (element.tag or "").lower(), (element.type or "").lower()
    holds_value = tag in ("textarea", "select") or (tag == "input" and kind not in BUTTONS)
    candidates = (element.label, None if holds_value else element.text, element.placeholder)
    return next((_clean(c) for c in candidates if c and c.strip()), "")


def element_noun(element: Element) -> str:
    """The plain word for an element's kind."""
    tag, kind = (element.tag or "").lower(), (element.type or "").lower()
    if tag == "button" or (tag == "input" and kind in BUTTONS):
        return "button"
    if tag == "input" and kind in BOXES:
        return "checkbox" if kind == "checkbox" else "option"
    return {"a": "link", "select": "dropdown", "input": "field", "textarea": "field", "img": "picture"}.get(tag, "text")


def _clean(text: str) -> str:
    return " ".join(text.split()).rstrip(":* ")[:120]
