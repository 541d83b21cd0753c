"""Records a demonstration: a driver of a real page that notes what can be seen just before every action."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from sheaf.wonderbread.dsl import encode_keys
from sheaf.wonderbread.events import RawEvent, clean_up, to_trace
from sheaf.wonderbread.observe import AT_ELEMENT, FOCUSED, LOOK, normalise
from sheaf.wonderbread.trace import Trace, dump_trace
from sheaf.wonderbread.video import Screencast, write_mp4

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

__all__ = ["Recorder", "Recording", "Style", "nominal_clock", "restricted_context", "write_recording"]

PUBLIC_ORIGIN = "http://apps.invalid"  # what goes on record in place of a loopback port; cannot be reached by design
NOWHERE = "http://127.0.0.1:9"  # the discard port: a proxy that answers nothing
KEYS = {"Escape": "esc", "ArrowUp": "up", "ArrowDown": "down", "ArrowLeft": "left", "ArrowRight": "right"}
SECONDS_PER_EVENT = 1.0
Clock = Callable[[], float]


@dataclass(frozen=True)
class Style:
    """What is kept of each state.

    Attributes:
        viewport: width and height of the page, CSS pixels.
        scale: of the stored screenshots, at most 1.
        colours: 0 for full colour, else a palette of 2 to 256 colours.
        html: store the page's HTML too.
        video: store a film of the browser's screencast too.
    """

    viewport: tuple[int, int] = (1280, 720)
    scale: float = 1.0
    colours: int = 0
    html: bool = True
    video: bool = False

    def __post_init__(self) -> None:
        if not 0.05 <= self.scale <= 1 or not (self.colours == 0 or 2 <= self.colours <= 256):
            raise ValueError(f"scale must lie in 0.05..1 and colours be 0 or 2..256; got {self.scale} and {self.colours}")


@dataclass(frozen=True)
class Recording:
    """A cleaned trace, the PNG of each of its states in order, and the film when one was taken."""

    trace: Trace
    screenshots: tuple[bytes, ...]
    film: Screencast | None = None


def nominal_clock() -> Clock:
    """A clock that ticks one second each time it is read, so that two recordings of one workflow are equal."""
    ticks = iter(range(10**9))
    return lambda: next(ticks) * SECONDS_PER_EVENT


@contextmanager
def restricted_context(browser: "Browser", origin: str, viewport: tuple[int, int] = (1280, 720)) -> "Iterator[BrowserContext]":
    """A fresh browser context that can reach ``origin`` (``http://host:port``) and nothing else.

    Two independent locks: requests to other addresses are aborted, and a proxy that answers nothing stands before
    every other host, which also stops what interception does not see (redirects, web sockets).
    """
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"an origin looks like http://127.0.0.1:8000; got {origin!r}")
    context = browser.new_context(
        viewport={"width": viewport[0], "height": viewport[1]},
        proxy={"server": NOWHERE, "bypass": f"<-loopback>,{parts.netloc}"},
        service_workers="block",
        accept_downloads=False,
        locale="en-US",
        timezone_id="UTC",
        color_scheme="light",
        reduced_motion="reduce",
    )
    own = re.escape(f"{parts.scheme}://{parts.netloc}")
    context.route(re.compile(rf"^(?!{own}(?:[/?#]|$))"), lambda route: route.abort("blockedbyclient"))
    try:
        yield context
    finally:
        context.close()


@dataclass
class Recorder:
    """Carries out actions on a page and keeps what it saw; the same methods as any driver of the applications.

    Each method takes the state first, then acts, then waits until the page has loaded again, so the picture of a
    state is that of a settled page just before its action. Filling a field is recorded as the click on it and the
    keys typed; choosing an option as the click on the dropdown and typing the option's name; opening a second
    address as typing it and pressing Enter.

    Attributes:
        page, origin: the page to drive and ``http://host:port`` of the application.
        clock: seconds since the start of the recording, read at every event.
        timeout: seconds to wait for an element or a page.
    """

    page: "Page"
    origin: str
    style: Style = field(default_factory=Style)
    clock: Clock = field(default_factory=lambda: _since_now())
    timeout: float = 10.0
    events: list[RawEvent] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(self.timeout * 1000)

    def open(self, url_path: str) -> None:
        """Goes to an address of the application; the first one is where the demonstration starts."""
        url = url_path if url_path.startswith(self.origin) else f"{self.origin}/{url_path.lstrip('/')}"
        if self.page.url != "about:blank" and self.events:
            self._observe()
            self._note("keypress", keys=encode_keys(normalise(url, self.origin, PUBLIC_ORIGIN)))
            self._observe()
            self._note("keypress", keys="Key.enter")
        self.page.goto(url, wait_until="load")
        if not self.events:
            self._observe()

    def click(self, role: str, name: str, nth: int = 0) -> None:
        """Clicks the nth element of this ARIA role and accessible name."""
        self._click(self.page.get_by_role(role, name=name, exact=True).nth(nth))  # type: ignore[arg-type]

    def fill(self, label: str, text: str) -> None:
        """Replaces what stands in the field with this label, key by key."""
        field_ = self._labelled(label)
        self._click(field_)
        field_.select_text()
        if not text:
            self._type("Backspace", ["Key.backspace"])
        for part in re.split(r"(\n)", text):
            if part == "\n":
                self.press("Enter")
            elif part:
                self._type(part)

    def select(self, label: str, option: str) -> None:
        """Chooses an option of the dropdown with this label, by the option's text."""
        dropdown = self._labelled(label)
        self._observe()
        self._note("mouseup", self._at(dropdown))
        dropdown.focus()
        self._observe()
        self._note("keypress", self._at(dropdown), keys=encode_keys(option))
        dropdown.select_option(label=option)
        self._settle()

    def check(self, label: str, on: bool = True) -> None:
        """Ticks or clears the box with this label; nothing is done or recorded when it is so already."""
        box = self._labelled(label)
        if box.is_checked() != on:
            self._click(box)

    def press(self, key: str) -> None:
        """Presses one key, by its DOM name (``Enter``, ``Tab``, ``ArrowDown``, ``a``), where the focus is."""
        self._observe()
        recorded = repr(key) if len(key) == 1 and key != " " else f"Key.{KEYS.get(key, key).lower()}"
        self._note("keypress", self.page.evaluate(FOCUSED), keys=recorded)
        focused = self.page.locator(":focus")
        if focused.count():  # an element's own press waits for the navigation it starts; the keyboard's does not
            focused.press(key)
        else:
            self.page.keyboard.press(key)
        self._settle()

    def scroll(self, dy: int) -> None:
        """Turns the wheel in the middle of the page; ``dy`` > 0 goes down, CSS pixels."""
        self._observe()
        width, height = self.style.viewport
        self.page.mouse.move(width / 2, height / 2)
        self._note("scroll", {"xpath": "/html[1]"}, at=(width / 2, height / 2), dy=float(dy))
        before = self.page.evaluate("() => scrollY")
        self.page.mouse.wheel(0, dy)
        self._wait_for_scroll(before)

    def finish(self, webarena: dict[str, Any], start: datetime) -> Recording:
        """The last state is taken, the events are cleaned up and numbered; ``path_to_screenshot`` is ``<k>.png``.

        Raises:
            ValueError: nothing was recorded.
        """
        if not self.events:
            raise ValueError("nothing was recorded: a demonstration starts by opening an address")
        self._observe()
        cleaned = clean_up(self.events)
        states = [event for event in cleaned if event.kind == "state"]
        paths = {id(event): f"screenshots/{k}.png" for k, event in enumerate(states)}
        named = [
            replace(event, state=event.state | {"path_to_screenshot": paths[id(event)]}) if id(event) in paths else event
            for event in cleaned
        ]
        return Recording(to_trace(named, webarena, start), tuple(self.pictures[event.picture] for event in states))

    def public(self, url: str) -> str:
        """An address of the application as it goes on record, free of the port it has here."""
        return url.replace(self.origin, PUBLIC_ORIGIN)

    def _labelled(self, label: str) -> "Locator":
        exact = self.page.get_by_label(label, exact=True)
        return exact if exact.count() == 1 else self.page.get_by_label(label).first

    def _click(self, where: "Locator") -> None:
        where.scroll_into_view_if_needed()
        self._observe()
        self._note("mouseup", self._at(where))
        where.click()
        self._settle()

    def _type(self, text: str, keys: list[str] | None = None) -> None:
        self._observe()
        self._note("keypress", self.page.evaluate(FOCUSED), keys=" ".join(keys) if keys else encode_keys(text))
        if keys:
            self.page.keyboard.press(text)
        else:
            self.page.keyboard.type(text)
        self._settle()

    def _at(self, where: "Locator") -> dict[str, Any]:
        return where.evaluate(AT_ELEMENT)

    def _settle(self) -> None:
        self.page.wait_for_load_state("load")

    def _wait_for_scroll(self, before: float) -> None:
        """Until the page has moved and stands still; a page that cannot move is given a few frames."""
        still, last = 0, before
        for _ in range(60):
            now = self.page.evaluate("() => new Promise((r) => requestAnimationFrame(() => r(scrollY)))")
            still = still + 1 if now == last else 0
            if still >= (3 if now != before else 8):
                return
            last = now

    def _note(
        self, kind: str, element: dict[str, Any] | None = None, *, keys: str | None = None,
        at: tuple[float, float] | None = None, dy: float = 0.0,
    ) -> None:  # fmt: skip
        if at is None and element is not None:
            at = (element["x"] + element["width"] / 2, element["y"] + element["height"] / 2)
        x, y = at or (None, None)
        element = normalise(element, self.origin, PUBLIC_ORIGIN)
        event = RawEvent(kind, self.clock(), x=x, y=y, dy=dy, element=element, app="Chromium")
        for key in (keys or "").split(" ") if keys else [None]:
            self.events.append(replace(event, key=key))

    def _observe(self) -> None:
        """Takes the state: one look by script, one screenshot."""
        width, height = self.style.viewport
        seen = normalise(self.page.evaluate(LOOK, self.style.html), self.origin, PUBLIC_ORIGIN)
        picture = self.page.screenshot(type="png", animations="disabled")
        state: dict[str, Any] = {
            "url": seen["url"],
            "tab": seen["tab"],
            "json_state": json.dumps(seen["elements"], ensure_ascii=False, separators=(",", ":")),
            "html": seen["html"],
            "screenshot_base64": None,
            "path_to_screenshot": None,
            "window_position": {"x": 0, "y": 0},
            "window_size": {"width": width, "height": height},
            "active_application_name": "Chromium",
            "screen_size": {"width": width, "height": height},
            "is_headless": True,
        }
        self.events.append(RawEvent("state", self.clock(), app="Chromium", state=state, picture=len(self.pictures)))
        self.pictures.append(picture)


def write_recording(recording: Recording, folder: Path, name: str, style: Style) -> None:
    """The trace and the screenshots of a demonstration, into its (existing, empty) folder."""
    (folder / "screenshots").mkdir()
    for k, picture in enumerate(recording.screenshots):
        (folder / "screenshots" / f"{k}.png").write_bytes(_stored(picture, style))
    if recording.film is not None and recording.film.frames:
        write_mp4(folder / f"{name}.mp4", recording.film.frames, recording.film.seconds)
    (folder / f"{name}.json").write_text(dump_trace(recording.trace), encoding="utf-8")


def _since_now() -> Clock:
    start = time.monotonic()
    return lambda: time.monotonic() - start


def _stored(png: bytes, style: Style) -> bytes:
    """The screenshot as it is kept: scaled, and in a palette when asked."""
    if style.scale == 1 and not style.colours:
        return png
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    if style.scale < 1:
        size = (max(1, round(small.width * style.scale)), max(1, round(small.height * style.scale)))
        small = small.resize(size, Image.Resampling.LANCZOS)
    if style.colours:
        small = small.quantize(style.colours, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()
