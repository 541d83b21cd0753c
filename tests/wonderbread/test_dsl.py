"""The sentence of every kind of action, and what recorded keys spell."""

from typing import Any

import pytest
from demo_factory import element
from hypothesis import given
from hypothesis import strategies as st

from sheaf.wonderbread.dsl import describe, element_kind, element_label, encode_keys, key_name, typed_text
from sheaf.wonderbread.trace import ActionData, ActionItem, Element, StateData, StateItem, TraceError


def act(kind: str, hit: dict[str, Any] | None = None, **fields: Any) -> ActionItem:
    attributes = None if hit is None else {"x": 1, "y": 2, "element": hit}
    data = {"id": 1, "step": 1, "type": kind, "element_attributes": attributes}
    return ActionItem(data=ActionData.model_validate(data | fields))


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (act("mouseup", element("button", text="Save")), "Click on the button labeled 'Save'"),
        (act("mouseup", element("a", text="  All \n invoices ")), "Click on the link labeled 'All invoices'"),
        (act("mouseup", element("input", label="Vendor", text="ACME")), "Click on the text field labeled 'Vendor'"),
        (act("mouseup", element("input", role="searchbox", text="x")), "Click on the text field labeled 'searchbox'"),
        (act("mouseup", element("input", placeholder="Search")), "Click on the text field labeled 'Search'"),
        (act("mouseup", element("select", label="Status")), "Click on the dropdown labeled 'Status'"),
        (act("mouseup", element("td")), "Click on the text"),
        (act("mouseup", None, x=10.4, y=20.6), "Click on the screen at (10, 21)"),
        (act("mouseup", element("a", text="File"), is_right_click=True), "Right click on the link labeled 'File'"),
        (act("keystroke", element("input", label="Vendor"), key="'h' 'i' Key.space '!'"),
         "Type the string 'hi !' in the text field labeled 'Vendor'"),
        (act("keystroke", None, key="'a'"), "Type the string 'a'"),
        (act("keypress", None, key="Key.enter"), "Press the key 'Enter'"),
        (act("keypress", None, key="Key.return"), "Press the key 'Enter'"),
        (act("keypress", None, key="Key.cmd Key.tab"), "Press the key 'Cmd+Tab'"),
        (act("scroll", None, dy=-120.0, dx=0), "Scroll up by 120 pixels"),
        (act("scroll", None, dy=120.4, dx=5), "Scroll down by 120 pixels"),
        (act("scroll", None, dy=0, dx=-7), "Scroll left by 7 pixels"),
        (act("scroll", None, dx=7), "Scroll right by 7 pixels"),
    ],
)  # fmt: skip
def test_a_sentence_for_every_kind_of_action(action: ActionItem, sentence: str) -> None:
    assert describe(action) == sentence


def test_a_state_has_no_sentence() -> None:
    with pytest.raises(TraceError, match="item 4 is a state"):
        describe(StateItem(data=StateData(id=4, step=2)))


def test_kinds_and_labels_follow_the_published_order() -> None:
    kinds = [element_kind(Element(tag=tag)) for tag in ("input", "button", "a", "select", "label", "IMG", None)]
    assert kinds == ["text field", "button", "link", "dropdown", "text", "text", "text"]
    assert element_kind(Element(tag="A")) == "link"
    assert element_label(Element(label=" ", role="", text="t", placeholder="p")) == "t"


def test_backspace_stays_as_letters_unless_applied() -> None:
    keys = act("keystroke", key="Key.shift 'H' 'o' Key.backspace 'i' Key.caps_lock")
    assert typed_text(keys) == "HoKey.backspaceiKey.caps_lock"  # as published
    assert typed_text(keys, apply_backspaces=True) == "Hi"
    assert typed_text(act("keystroke", key="Key.backspace Key.backspace"), apply_backspaces=True) == ""
    assert typed_text(act("keystroke", key=None)) == ""


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\t"), max_size=30))
def test_typed_text_is_what_was_encoded(text: str) -> None:
    keys = act("keystroke", key=encode_keys(text))
    assert typed_text(keys) == text == typed_text(keys, apply_backspaces=True)


@given(st.text(max_size=60))
def test_any_recorded_keys_give_a_sentence(keys: str) -> None:
    assert describe(act("keystroke", key=keys)).startswith("Type the string '")
    assert describe(act("keypress", key=keys)).startswith("Press the key '")
    assert isinstance(key_name(keys), str)
