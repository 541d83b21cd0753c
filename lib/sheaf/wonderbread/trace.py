"""The paper's demonstration format: a trace of alternating states and actions, checked when it is read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

__all__ = [
    "ACTION_KINDS", "ActionData", "ActionItem", "Attributes", "Demo", "Element", "Item", "StateData", "StateItem", "Trace",
    "TraceError", "dump_trace", "elements", "is_demo_name", "parse_trace", "target", "task_of_name",
]  # fmt: skip

ACTION_KINDS = ("mouseup", "keystroke", "keypress", "scroll")
NAME = re.compile(r"(\d{1,9}) @ \d{4}-\d{2}-\d{2}-\d{2}-\d{2}-\d{2}(?: \(\d\))?", re.ASCII)  # some were downloaded twice
Number = Annotated[float, Field(allow_inf_nan=False)]


class TraceError(ValueError):
    """A trace that does not follow the format; the message names the item and the field."""


class _Record(BaseModel):
    """Fields beyond the known ones are kept as they are: recordings differ by site and by recorder version."""

    model_config = ConfigDict(extra="allow")


class Element(_Record):
    """A visible element of a page; lengths in CSS pixels from the top left corner of the viewport.

    ``label`` is the accessible name (``aria-label``, else the text of its ``<label>``); ``value`` and ``placeholder``
    are present on the targets of actions only.
    """

    x: Number | None = None
    y: Number | None = None
    width: Number | None = None
    height: Number | None = None
    text: str | None = None
    role: str | None = None
    type: str | None = None
    tag: str | None = None
    label: str | None = None
    xpath: str | None = None
    placeholder: str | None = None
    value: str | None = None


class Attributes(_Record):
    """What an action hit: a point and an element; a scroll carries the element's ``xpath`` only."""

    x: Number | None = None
    y: Number | None = None
    element: Element | None = None
    xpath: str | None = None


class _Data(_Record):
    id: int = Field(ge=0, le=10**9)  # position in the trace
    step: int = Field(ge=0, le=10**9)  # 0, 1, 1, 2, 2, …: an action and the state after it share one
    timestamp: str | None = None  # ISO 8601
    secs_from_start: Number | None = None


class StateData(_Data):
    """What could be seen just before an action. ``json_state`` is JSON inside a string: read it with ``elements``."""

    url: str | None = None
    tab: str | None = None
    json_state: str | None = None
    html: str | None = None
    screenshot_base64: str | None = None  # always null in the published data
    path_to_screenshot: str | None = None  # of the machine that recorded it: only the last part means something
    window_position: dict[str, Any] | None = None
    window_size: dict[str, Any] | None = None
    active_application_name: str | None = None
    screen_size: Any = None
    is_headless: bool | None = None


class ActionData(_Data):
    """One action. ``key`` is a space-joined list of key names as recorded: ``'h' 'i' Key.space``."""

    type: Literal["mouseup", "keystroke", "keypress", "scroll"]
    x: Number | None = None
    y: Number | None = None
    dx: Number | None = None
    dy: Number | None = None
    is_right_click: bool | None = None
    pressed: bool | None = None
    key: str | None = None
    element_attributes: Attributes | None = None
    element: Element | None = None  # some recordings carry the element here instead


class Item(BaseModel):
    """One entry of a trace: a state or an action."""

    model_config = ConfigDict(extra="allow")

    type: Literal["state", "action"]
    data: StateData | ActionData


class StateItem(Item):
    """A state: the page, its visible elements and its screenshot just before the next action."""

    type: Literal["state"] = "state"
    data: StateData


class ActionItem(Item):
    """An action between two states."""

    type: Literal["action"] = "action"
    data: ActionData


class Trace(_Record):
    """``trace``: state, action, state, …, state; ``webarena``: the task it shows (``task_id``, ``intent``, ``sites``, …)."""

    trace: list[Annotated[StateItem | ActionItem, Field(discriminator="type")]]
    webarena: dict[str, Any] = Field(default_factory=dict)


_ELEMENTS = TypeAdapter(list[Element])


def parse_trace(text: str | bytes) -> Trace:
    """A trace from its JSON, checked whole: fields, alternation, numbering, and what ``json_state`` holds.

    Tolerated, because the published recordings have it: unknown fields, null or missing values other than ``id``,
    ``step`` and an action's ``type``, an element at the top level of an action.

    Raises:
        TraceError: anything else that is not a trace; names the item and the field. No other exception leaves here.
    """
    try:
        raw = from_json(text.encode("utf-8") if isinstance(text, str) else text, allow_inf_nan=False)
    except ValueError as error:
        raise TraceError(f"a trace is a JSON object with the keys trace and webarena; this is not JSON: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("trace"), list):
        raise TraceError("a trace is a JSON object whose key trace holds a list of items")
    try:
        trace = Trace.model_validate(raw)
    except ValidationError as error:
        raise TraceError(_first_problem(error)) from None
    for problem in _structure(trace):
        raise TraceError(problem)
    return trace


def dump_trace(trace: Trace) -> str:
    """The JSON of a trace, with exactly the fields it was made of; ``parse_trace`` reads it back equal."""
    return trace.model_dump_json(exclude_unset=True) + "\n"


def elements(state: Item) -> list[Element]:
    """The visible elements of a state, decoded from its ``json_state``; empty when none were stored.

    Raises:
        TraceError: ``json_state`` is not a JSON list of elements.
    """
    data = state.data
    if not isinstance(data, StateData):
        raise TraceError(f"item {data.id} is an action; only a state has visible elements")
    if not data.json_state:
        return []
    try:
        decoded = from_json(data.json_state.encode("utf-8"), allow_inf_nan=False)
        return _ELEMENTS.validate_python(decoded)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise TraceError(f"item {data.id}, field json_state, element {where}: {error.errors()[0]['msg']}") from None
    except ValueError as error:
        raise TraceError(f"item {data.id}, field json_state: not a JSON list of elements ({error})") from None


def target(action: Item) -> Element | None:
    """The element an action hit, wherever the recording keeps it; None when it hit none."""
    data = action.data
    if not isinstance(data, ActionData):
        raise TraceError(f"item {data.id} is a state; only an action has a target")
    attributes = data.element_attributes
    if attributes is None:
        return data.element
    if attributes.element is not None:
        return attributes.element
    if data.element is not None:
        return data.element
    flat = attributes.model_dump(exclude_unset=True, exclude={"element"})
    if "xpath" not in flat:
        return None
    try:  # the attributes are the element itself
        return Element.model_validate(flat)
    except ValidationError:
        return Element(xpath=attributes.xpath)


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = [part for part in first["loc"] if part not in ("state", "action")]
    message = first["msg"] if len(first["msg"]) <= 300 else first["msg"][:299] + "…"  # it may quote the trace
    if where[:1] == ["trace"] and len(where) > 1:
        return f"item {where[1]}, field {'.'.join(str(part) for part in where[2:]) or 'type'}: {message}"
    return f"field {'.'.join(str(part) for part in where)}: {message}"


def _structure(trace: Trace) -> Iterator[str]:
    """What the types cannot say: order, numbering, times, and JSON inside strings."""
    if not trace.trace:
        yield "field trace: it is empty; a trace holds one state at least"
        return
    for position, item in enumerate(trace.trace):
        expected = "action" if position % 2 else "state"
        if item.type != expected:
            yield f"item {position}, field type: {item.type} where {expected} belongs; states and actions alternate"
        if item.data.id != position:
            yield f"item {position}, field data.id: {item.data.id}; it must be the position in the trace"
        if item.data.step != (position + 1) // 2:
            yield f"item {position}, field data.step: {item.data.step}; it must be {(position + 1) // 2}"
        if item.data.timestamp is not None and not _is_time(item.data.timestamp):
            yield f"item {position}, field data.timestamp: {item.data.timestamp[:40]!r} is not an ISO 8601 time"
        if isinstance(item, StateItem):
            try:
                elements(item)
            except TraceError as error:
                yield str(error)
    if trace.trace[-1].type != "state":
        yield f"item {len(trace.trace) - 1}, field type: a trace ends with a state, this one with an action"


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_demo_name(name: str) -> bool:
    """Whether a name has the form ``<task_id> @ YYYY-MM-DD-HH-MM-SS``, a published ``(1)`` behind it tolerated."""
    return NAME.fullmatch(name) is not None


def task_of_name(name: str) -> int:
    """The task id in a demonstration's name.

    Raises:
        ValueError: the name has another form.
    """
    if not (found := NAME.fullmatch(name)):
        raise ValueError(f"{name[:80]!r} is not a demonstration's name; the form is '<task_id> @ YYYY-MM-DD-HH-MM-SS'")
    return int(found[1])


@dataclass(frozen=True)
class Demo:
    """One demonstration: a person (or a policy) doing one task once.

    Attributes:
        name: ``<task_id> @ YYYY-MM-DD-HH-MM-SS``.
        sop, original_sop: procedure texts, title line first; the original is the annotator's first version.
        folder: where screenshots and video lie; None when there are none.
        rank: of its procedure among the demonstrations of its task, 1 best; None when unranked.
        completed: whether the application ended in the wanted state; None when unknown.
        template: the workflow, such as ``payables/approve_invoice``; ``task_id`` is one slot filling of it.
        policy: how it was carried out: ``direct``, ``detour``, …, ``wrong``; empty when unknown.
    """

    name: str
    task_id: int
    site: str
    intent: str
    trace: Trace
    sop: str | None = None
    original_sop: str | None = None
    folder: Path | None = None
    rank: int | None = None
    completed: bool | None = None
    template: str = ""
    policy: str = ""

    @property
    def states(self) -> list[StateItem]:
        return [item for item in self.trace.trace if isinstance(item, StateItem)]

    @property
    def actions(self) -> list[ActionItem]:
        return [item for item in self.trace.trace if isinstance(item, ActionItem)]

    def screenshot(self, k: int) -> Path | None:
        """The picture of the k-th state, k from 0; None when it was not stored.

        Raises:
            IndexError: there is no such state.
        """
        state = self.states[k].data
        if self.folder is None or not state.path_to_screenshot:
            return None
        base = PurePosixPath(state.path_to_screenshot.replace("\\", "/")).name
        pictures = self.folder / "screenshots"
        path = pictures / base
        if not base or "\0" in base or pictures.is_symlink() or path.is_symlink() or not path.is_file():
            return None  # a link could show a file of the reader's own machine
        return path

    @property
    def video(self) -> Path | None:
        path = None if self.folder is None else self.folder / f"{self.name}.mp4"
        return path if path is not None and path.is_file() and not path.is_symlink() else None
