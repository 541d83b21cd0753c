"""The paper's sentence for an action, and the text that its recorded keys spell (paper, input settings)."""

import ast

from sheaf.wonderbread.trace import ActionData, Element, Item, TraceError, target

__all__ = ["describe", "element_kind", "element_label", "encode_keys", "key_name", "typed_text"]

KINDS = {"input": "text field", "button": "button", "a": "link", "select": "dropdown"}
KEY_NAMES = {"return": "Enter", "enter": "Enter"}
SPECIAL = {" ": "Key.space", "\n": "Key.enter", "\t": "Key.tab"}


def element_kind(element: Element) -> str:
    """As published, by tag alone: a submit button made of ``<input>`` is called a text field."""
    return KINDS.get((element.tag or "").lower(), "text")


def element_label(element: Element) -> str:
    """As published: the first that is not empty of accessible label, role, text and placeholder; else empty."""
    candidates = (element.label, element.role, element.text, element.placeholder)
    return next((" ".join(c.split()) for c in candidates if c and c.strip()), "")


def describe(action: Item) -> str:
    """One English sentence for an action, as given to models next to the key frames.

    Raises:
        TraceError: the item is a state.
    """
    data = _data(action)
    element = target(action)
    match data.type:
        case "mouseup":
            where = _named(element) or f"the screen at ({_whole(data.x)}, {_whole(data.y)})"
            return f"{'Right click' if data.is_right_click else 'Click'} on {where}"
        case "keystroke":
            return f"Type the string '{typed_text(action)}'" + (f" in {named}" if (named := _named(element)) else "")
        case "keypress":
            return f"Press the key '{key_name(data.key or '')}'"
        case _:
            return f"Scroll {_direction(data)}"


def typed_text(action: Item, apply_backspaces: bool = False) -> str:
    """The text that a keystroke action spells.

    As published, ``Key.backspace`` stays in the text as these letters, and so does any special key but space and
    shift; ``apply_backspaces`` deletes with it instead and drops the other special keys.
    """
    out: list[str] = []
    for token in (_data(action).key or "").split(" "):
        name = token.removeprefix("Key.")
        if token == "Key.space":
            out.append(" ")
        elif not token or (token.startswith("Key.") and name.startswith("shift")):
            continue
        elif token.startswith("Key.") and apply_backspaces:
            if name == "backspace" and out:
                out.pop()
        else:
            out.append(_unquote(token))
    return "".join(out)


def encode_keys(text: str) -> str:
    """The recorded form of typing ``text``: ``hi `` becomes ``'h' 'i' Key.space``."""
    return " ".join(SPECIAL.get(letter) or repr(letter) for letter in text)


def key_name(key: str) -> str:
    """A recorded special key by the name people use: ``Key.return`` and ``Key.enter`` are ``Enter``."""
    parts = [part for token in key.split() for part in token.split("+")]
    names = [part.removeprefix("Key.") if part.startswith("Key.") else _unquote(part) for part in parts]
    return "+".join(KEY_NAMES.get(name.lower(), name[:1].upper() + name[1:]) for name in names)


def _data(action: Item) -> ActionData:
    if not isinstance(action.data, ActionData):
        raise TraceError(f"item {action.data.id} is a state; only an action can be put into a sentence")
    return action.data


def _named(element: Element | None) -> str:
    if element is None:
        return ""
    label = element_label(element)
    return f"the {element_kind(element)}" + (f" labeled '{label}'" if label else "")


def _whole(value: float | None) -> int:
    return round(value or 0)


def _direction(data: ActionData) -> str:
    dx, dy = _whole(data.dx), _whole(data.dy)
    if dy or not dx:
        return f"{'up' if dy < 0 else 'down'} by {abs(dy)} pixels"
    return f"{'left' if dx < 0 else 'right'} by {abs(dx)} pixels"


def _unquote(token: str) -> str:
    """A key as recorded is the ``repr`` of a letter; anything else loses its outer quotes only."""
    if 3 <= len(token) <= 16 and token[0] == token[-1] and token[0] in "'\"":
        try:
            return str(ast.literal_eval(token))
        except (ValueError, SyntaxError):
            return token[1:-1]
    return token.strip("'\"")
