"""From raw recorder events to a trace: the paper's clean-up list, one function a step, in its order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sheaf.wonderbread.trace import ActionData, ActionItem, StateData, StateItem, Trace

__all__ = [
    "RawEvent", "clean_up", "drop_escape", "drop_half_events", "is_typing", "merge_keys", "merge_scrolls", "merge_states",
    "to_trace",
]  # fmt: skip

SAME_POINT = 10.0  # pixels: scrolls this near to each other are at the same point
TYPING_KEYS = frozenset({"Key.space", "Key.shift", "Key.shift_l", "Key.shift_r", "Key.caps_lock", "Key.backspace"})
HALF = frozenset({"mousedown", "keyrelease"})


@dataclass(frozen=True)
class RawEvent:
    """One event as it was seen.

    Attributes:
        kind: ``state``, ``mousedown``, ``mouseup``, ``keypress``, ``keyrelease``, ``scroll``; after merging also
            ``keystroke``.
        time: seconds from the start of the recording.
        x, y, dx, dy: CSS pixels; ``dy`` > 0 scrolls down.
        key: as recorded: ``'h'``, ``Key.space``; a merged run joined by spaces.
        element: what was hit, the fields of ``trace.Element``; None when nothing was.
        state: the fields of a state.
        picture: of a state, its place in the recorder's list of screenshots.
    """

    kind: str
    time: float
    x: float | None = None
    y: float | None = None
    dx: float = 0.0
    dy: float = 0.0
    key: str | None = None
    element: dict[str, Any] | None = None
    app: str = ""
    right: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    picture: int = -1

    @property
    def xpath(self) -> str | None:
        return None if self.element is None else self.element.get("xpath")


def is_typing(event: RawEvent) -> bool:
    """Whether a key press belongs to typed text: a printable key, space, shift, caps lock or backspace."""
    if event.kind not in ("keypress", "keystroke"):
        return False
    return event.kind == "keystroke" or event.key in TYPING_KEYS or not (event.key or "").startswith("Key.")


def merge_scrolls(events: Sequence[RawEvent], tolerance: float = SAME_POINT) -> list[RawEvent]:
    """Scrolls that follow each other at one point (within ``tolerance`` pixels) become one: dx and dy add up."""

    def together(one: RawEvent, two: RawEvent) -> bool:
        near = max(abs((one.x or 0) - (two.x or 0)), abs((one.y or 0) - (two.y or 0))) <= tolerance
        return one.kind == two.kind == "scroll" and near

    def join(one: RawEvent, two: RawEvent) -> RawEvent:
        return replace(one, dx=one.dx + two.dx, dy=one.dy + two.dy, time=two.time)

    return _merge(events, together, join)


def drop_escape(events: Sequence[RawEvent]) -> list[RawEvent]:
    """Escape was the key that stopped the recorder, so it is never part of a demonstration."""
    return [e for e in events if not (e.kind in ("keypress", "keyrelease") and e.key in ("Key.esc", "Key.escape"))]


def drop_half_events(events: Sequence[RawEvent]) -> list[RawEvent]:
    """A click is its mouse-up and a key its press; the other halves go."""
    return [e for e in events if e.kind not in HALF]


def merge_keys(events: Sequence[RawEvent]) -> list[RawEvent]:
    """Typing keys that follow each other in one element of one application become a keystroke; its time is the last key's."""

    def together(one: RawEvent, two: RawEvent) -> bool:
        return is_typing(one) and is_typing(two) and (one.xpath, one.app) == (two.xpath, two.app)

    def join(one: RawEvent, two: RawEvent) -> RawEvent:
        return replace(one, key=f"{one.key} {two.key}", time=two.time)

    typed = [replace(e, kind="keystroke") if is_typing(e) else e for e in events]
    return _merge(typed, together, join)


def merge_states(events: Sequence[RawEvent]) -> list[RawEvent]:
    """Of states that follow each other the last stays: it is the one just before the next action."""
    after = [*events[1:], None]
    return [e for e, following in zip(events, after, strict=False)
            if not (e.kind == "state" and following is not None and following.kind == "state")]  # fmt: skip


def clean_up(events: Sequence[RawEvent]) -> list[RawEvent]:
    """The whole list: merge scrolls, drop escape, drop half events, merge keys, merge states."""
    return merge_states(merge_keys(drop_half_events(drop_escape(merge_scrolls(events)))))


def to_trace(events: Sequence[RawEvent], webarena: dict[str, Any], start: datetime) -> Trace:
    """A numbered trace from cleaned events.

    Raises:
        ValueError: states and actions do not alternate from state to state.
    """
    if not events or len(events) % 2 == 0 or any((e.kind == "state") == bool(i % 2) for i, e in enumerate(events)):
        kinds = " ".join(e.kind for e in events)
        raise ValueError(f"a recording alternates state, action, …, state; this one is: {kinds[:200] or 'empty'}")
    items = [_item(i, event, start) for i, event in enumerate(events)]
    return Trace(trace=items, webarena=webarena)


def _merge(
    events: Sequence[RawEvent],
    together: Callable[[RawEvent, RawEvent], bool],
    join: Callable[[RawEvent, RawEvent], RawEvent],
) -> list[RawEvent]:
    """Joins actions with the action before them; states seen in between move behind the joined one."""
    out: list[RawEvent] = []
    last = -1  # where the latest action is
    for event in events:
        if event.kind == "state":
            out.append(event)
        elif last >= 0 and together(out[last], event):
            out[last] = join(out[last], event)
        else:
            last = len(out)
            out.append(event)
    return out


def _item(position: int, event: RawEvent, start: datetime) -> StateItem | ActionItem:
    common: dict[str, Any] = {
        "id": position,
        "step": (position + 1) // 2,
        "timestamp": (start + timedelta(seconds=event.time)).isoformat(),
        "secs_from_start": round(event.time, 6),
    }
    if event.kind == "state":
        return StateItem(type="state", data=StateData.model_validate(common | event.state))
    at: dict[str, Any] = {"x": event.x, "y": event.y}
    own: dict[str, Any]
    match event.kind:
        case "mouseup":
            hit = None if event.element is None else at | {"element": event.element}
            own = at | {"is_right_click": event.right, "pressed": False, "element_attributes": hit}
        case "keystroke" | "keypress":
            hit = None if event.element is None else at | {"element": event.element}
            own = {"key": event.key, "element_attributes": hit}
        case "scroll":
            own = at | {"dx": event.dx, "dy": event.dy}
            own |= {"element_attributes": None if event.xpath is None else {"xpath": event.xpath}}
        case _:
            raise ValueError(f"item {position}: an event of kind {event.kind!r} cannot stand in a trace; clean it up first")
    return ActionItem(type="action", data=ActionData.model_validate({"type": event.kind} | common | own))
