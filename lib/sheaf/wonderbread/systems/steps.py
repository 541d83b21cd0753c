"""Steps of a procedure, read off actions or guessed from frames, and the sentences that say them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from sheaf.wonderbread.dsl import describe, key_name, typed_text
from sheaf.wonderbread.systems.text import content_words
from sheaf.wonderbread.systems.views import (
    BOXES,
    BUTTONS,
    Frame,
    Turn,
    detours,
    element_name,
    element_noun,
    turns_of,
)  # fmt: skip
from sheaf.wonderbread.trace import ActionData, Demo, Element, target

__all__ = ["Step", "acted_steps", "guessed_steps", "realise"]

SEARCH_KEYS = ("q", "search", "query", "s", "keyword")
NO_CONFIRMATION = frozenset({"search", "delete", "cancel", "log", "logout"})  # in the names of buttons that send no form
MOVING_KEYS = frozenset({"tab", "shift", "shift+tab", "esc", "escape", "home", "end", "page_down", "page_up"})


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        kind: go, click, type, select, tick, untick, press, search, filter, show, remove, scroll, or say for a
            sentence in ``value`` that is used as it is.
        name, noun: of the element; ``value`` typed, chosen or pressed.
        page, leads: titles of the page it happens on and, when that changes, of the one it leads to.
        xpath: of the field, to join steps on the same one.
    """

    kind: str
    name: str = ""
    noun: str = ""
    value: str = ""
    page: str = ""
    leads: str = ""
    xpath: str = ""


def realise(steps: Sequence[Step]) -> list[str]:
    """One sentence a step; the page is named where it is not the one that the sentence before led to."""
    lines: list[str] = []
    here = ""
    for step in steps:
        sentence = _sentence(step)
        if step.page and step.page != here and step.kind not in ("go", "say"):
            sentence = f"On the '{step.page}' page, {sentence[0].lower()}{sentence[1:]}"
        lines.append(sentence + ".")
        here = step.leads or step.page or here
    return lines


def _sentence(step: Step) -> str:
    named = f"the '{step.name}' {step.noun}" if step.name else f"the {step.noun or 'element'}"
    onward = f" to open the '{step.leads}' page" if step.leads else ""
    match step.kind:
        case "go":
            return f"Go to the '{step.leads}' page"
        case "click":
            return f"Click {named}{onward}"
        case "type":
            return f"Type '{step.value}' in {named}" if step.value else f"Clear {named}"
        case "select":
            return f"Select '{step.value}' in {named}"
        case "tick" | "untick":
            return f"{'Tick' if step.kind == 'tick' else 'Untick'} {named}"
        case "press":
            return f"Press the '{step.value}' key{onward}"
        case "search":
            return f"Search for '{step.value}'"
        case "filter":
            return f"Filter the list by {step.name}: '{step.value}'"
        case "show":
            return f"Click to show '{step.name}'"
        case "remove":
            return f"Remove '{step.name}'"
        case "scroll":
            return f"Scroll {step.value or 'down'}"
        case _:
            return step.value.rstrip(".")


def acted_steps(demo: Demo, keep_detours: bool = False) -> list[Step]:
    """Steps of the actions of a demonstration, with the titles and field values of the frames around them.

    The click that puts the cursor into a field, the Tab key and scrolling are no steps; keys typed into one field are
    one step; a typed address is "go to"; ways out and back that changed nothing are left out unless kept.
    """
    turns = turns_of(demo)
    if not keep_detours and turns and all(turn.before and turn.after for turn in turns):
        frames = [turn.before for turn in turns if turn.before] + [turn.after for turn in turns[-1:] if turn.after]
        turns = [turn for turn, idle in zip(turns, detours(frames), strict=True) if not idle]
    steps: list[Step] = []
    address = ""
    for turn in turns:
        data = turn.action.data
        if isinstance(data, ActionData) and data.type == "keystroke" and _is_address(typed_text(turn.action)):
            address = typed_text(turn.action)
            continue
        if step := _acted(turn, bool(address)):
            _append(steps, step)
        address = ""
    return steps


def _acted(turn: Turn, address_typed: bool) -> Step | None:
    data, element, before, after = turn.action.data, target(turn.action), turn.before, turn.after
    if not isinstance(data, ActionData) or data.type == "scroll":
        return None
    page = before.page if before else ""
    moved = bool(before and after and before.place != after.place)
    leads = after.page if moved and after and after.page != page else ""
    if data.type == "keypress":
        key = key_name(data.key or "")
        if key.lower() in MOVING_KEYS:
            return None
        if address_typed and key == "Enter":
            return Step("go", page=page, leads=after.page if after else "start")
        presses = key in ("Enter", "Space")
        if not (element and presses and element_noun(element) in ("button", "link", "checkbox", "option")):
            if element and element_noun(element) == "dropdown":
                return _chosen(element, before, after, "")
            return Step("press", value=key, page=page, leads=leads)
    if element is None or not element.tag:
        return Step("say", value=describe(turn.action), page=page, leads=leads)
    noun, name = element_noun(element), (before.name_of(element) if before else element_name(element))
    if data.type == "keystroke":
        text = typed_text(turn.action, apply_backspaces=True)
        if noun == "dropdown":
            return _chosen(element, before, after, text)
        return Step("type", name, noun, text, page, xpath=element.xpath or "")
    if noun in ("checkbox", "option"):
        kind = "untick" if noun == "checkbox" and (element.value or element.text) == "checked" else "tick"
        return Step(kind, name, noun, page=page)
    if noun in ("field", "dropdown"):  # only a cursor so far: what is typed next says the step
        return None
    return Step("click", name, noun, page=page, leads=leads)


def _chosen(element: Element, before: Frame | None, after: Frame | None, typed: str) -> Step | None:
    """The option that a dropdown shows after the action, else the one whose name was typed."""
    shown = after.fields.get(element.xpath or "") if after else None
    value = (shown.text if shown is not None and shown.text else "") or typed
    if not value:
        return None
    name = before.name_of(element) if before else element_name(element)
    return Step("select", name, "dropdown", " ".join(value.split()), before.page if before else "", xpath=element.xpath or "")


def _append(steps: list[Step], step: Step) -> None:
    """Adds a step; one more on the same field of the same page joins the last."""
    last = steps[-1] if steps else None
    if last and step.xpath and (last.kind, last.xpath, last.page) == (step.kind, step.xpath, step.page):
        value = step.value if step.kind == "select" else last.value + step.value
        steps[-1] = replace(step, value=value)
    elif not (last == step and step.kind in ("say", "press")):
        steps.append(step)


def _is_address(text: str) -> bool:
    return urlsplit(text).scheme in ("http", "https")


def guessed_steps(frames: Sequence[Frame]) -> list[Step]:
    """Steps guessed from what changed between consecutive frames; there is nothing here that shows an action.

    A new address is "go to", or the click on the element of the frame before whose name fits best; a new query is a
    search or a filter; a new confirmation is the press of a submit button; a field with another value was typed
    into; elements that appeared or vanished were shown or removed. Ways out and back are left out.
    """
    idle = detours(frames)
    steps: list[Step] = []
    for k, out_and_back in enumerate(idle):
        if out_and_back:
            continue
        for step in _guess(frames[k], frames[k + 1]):
            last = steps[-1] if steps else None
            if last and step.xpath and (last.kind, last.xpath, last.page) == (step.kind, step.xpath, step.page):
                steps[-1] = step  # the field's value is whole in the later frame
            elif last != step:
                steps.append(step)
    return steps


def _guess(a: Frame, b: Frame) -> list[Step]:
    if a.shape == b.shape:
        return []
    if set(b.successes) - set(a.successes):
        button = _submit(a)
        return [Step("click", button, "button", page=a.page, leads=b.page if b.page != a.page else "")]
    if a.place != b.place:
        leads = b.page if b.page != a.page else ""
        if name := _way(a, b):
            return [Step("click", name, "link", page=a.page, leads=leads)]
        return [Step("go", page=a.page, leads=b.page)]
    if a.query != b.query:
        new = {key: value for key, value in b.query.items() if a.query.get(key) != value and value}
        asked = [Step("search", value=value, page=a.page) for key, value in new.items() if key in SEARCH_KEYS]
        limits = [
            Step("filter", key.split("__")[0].replace("_", " "), value=value, page=a.page)
            for key, value in new.items()
            if key not in SEARCH_KEYS and len(key) > 1 and not key.startswith("_")
        ]
        return asked + limits or [Step("show", b.page, page=a.page)]
    changed = [_typed(a, b, xpath) for xpath in a.fields if xpath in b.fields]
    return [step for step in changed if step] or _appeared(a, b)


def _typed(a: Frame, b: Frame, xpath: str) -> Step | None:
    old, new = a.fields[xpath], b.fields[xpath]
    if (old.text or "") == (new.text or ""):
        return None
    name, noun = b.name_of(new), element_noun(new)
    if (new.type or "").lower() in BOXES:
        return Step("tick" if new.text else "untick", name, noun, page=a.page)
    kind = "select" if noun == "dropdown" else "type"
    return Step(kind, name, noun, " ".join((new.text or "").split()), a.page, xpath=xpath)


def _appeared(a: Frame, b: Frame) -> list[Step]:
    """Elements that came or went on one page; most of the same elements elsewhere is scrolling, which is no step."""
    before = {(e.xpath, e.text): e for e in a.elements}
    after = {(e.xpath, e.text): e for e in b.elements}
    kept = before.keys() & after.keys()
    if any((before[key].y or 0) != (after[key].y or 0) for key in kept) and len(kept) * 2 >= min(len(before), len(after)):
        return []
    came = [_named(e) for key, e in after.items() if key not in before and _named(e)]
    went = [_named(e) for key, e in before.items() if key not in after and _named(e)]
    if came:
        return [Step("show", came[0], page=a.page)]
    return [Step("remove", went[0], page=a.page)] if went else []


def _named(element: Element) -> str:
    return element_name(element) or " ".join((element.text or "").split())[:80]


def _submit(frame: Frame) -> str:
    """Name of the button that most likely sends a form: the first of type submit that neither searches, deletes nor logs out."""
    buttons = [e for e in frame.elements if element_noun(e) == "button" and element_name(e)]
    typed = [e for e in buttons if (e.type or "").lower() in BUTTONS[:1]] or buttons
    wanted = [e for e in typed if not NO_CONFIRMATION & set(element_name(e).lower().split())] or typed
    return element_name(wanted[0]) if wanted else ""


def _way(a: Frame, b: Frame) -> str:
    """Name of the link or button of ``a`` that shares most of its words with title and new path of ``b``; may be none."""
    new = [part.replace("_", " ") for part in b.path if part not in a.path]
    goal = set(content_words(b.page)) | {word for part in new for word in content_words(part)}
    best, score = "", 0.0
    for element in a.elements:
        if element_noun(element) not in ("link", "button") or not (name := element_name(element)):
            continue
        words = set(content_words(name))
        own = len(words & goal) / len(words) if words else 0.0
        if own > score:
            best, score = name, own
    return best if score >= 0.5 else ""
