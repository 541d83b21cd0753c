"""The demonstration format: read, written, and refused with one kind of error that names the place."""

import copy
import json
from typing import Any

import pytest
from demo_factory import action, element, raw_trace, state
from hypothesis import given, settings
from hypothesis import strategies as st

from sheaf.wonderbread.trace import (
    ActionItem,
    Demo,
    Element,
    TraceError,
    dump_trace,
    elements,
    is_demo_name,
    parse_trace,
    target,
    task_of_name,
)  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def parsed(raw: Any):
    return parse_trace(json.dumps(raw))


def test_a_trace_survives_writing_and_reading() -> None:
    raw = raw_trace(4, eval={"kinds": ["database"]}, later_field=[1, 2])
    raw["trace"][1]["data"]["recorder_version"] = 3
    trace = parsed(raw)
    assert parse_trace(dump_trace(trace)) == trace
    assert json.loads(dump_trace(trace)) == raw  # nothing added, nothing lost, unknown fields kept


def test_states_and_their_elements_are_decoded() -> None:
    trace = parsed(raw_trace(2))
    assert [e.text for e in elements(trace.trace[2])] == ["link 1"]
    with pytest.raises(TraceError, match="item 1 is an action"):
        elements(trace.trace[1])
    for empty in (None, "", "[]"):
        raw = raw_trace(1)
        raw["trace"][0]["data"]["json_state"] = empty
        assert elements(parsed(raw).trace[0]) == []


def test_the_target_of_an_action_is_found_wherever_it_is_kept() -> None:
    button = element("button", text="Pay")
    nested = action(1)
    nested["data"]["element_attributes"] = {"x": 1, "y": 2, "element": button}
    top = action(1, "keystroke", key="'a'", element=button)
    flat = action(1, "scroll", dy=10, element_attributes={"xpath": button["xpath"]})
    found = []
    for item in (nested, top, flat, action(1, "keypress", key="Key.tab", element_attributes=None)):
        found.append(target(parsed({"trace": [state(0), item, state(2)]}).trace[1]))
    assert found[0] == found[1] == Element(**button)
    assert found[2] == Element(xpath=button["xpath"]) and found[3] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(trace=[]), "empty"),
        (lambda t: t.update(trace={}), "list of items"),
        (lambda t: t["trace"].pop(), "item 3.*ends with a state"),
        (lambda t: t["trace"].pop(1), "item 1, field type: state where action"),
        (lambda t: t["trace"][2]["data"].update(id=5), "item 2, field data.id: 5"),
        (lambda t: t["trace"][2]["data"].update(step=5), "item 2, field data.step: 5.*must be 1"),
        (lambda t: t["trace"][2]["data"].update(id=10**5000), "not JSON|data.id"),
        (lambda t: t["trace"][2]["data"].pop("id"), "item 2, field data.id"),
        (lambda t: t["trace"][1]["data"].update(type="wink"), "item 1, field data.type.*mouseup"),
        (lambda t: t["trace"][1]["data"].update(x="left"), "item 1, field data.x"),
        (lambda t: t["trace"][1]["data"].update(x=float("nan")), "not JSON"),
        (lambda t: t["trace"][1].update(type="dream"), "item 1, field type"),
        (lambda t: t["trace"][0]["data"].update(json_state="[{]"), "item 0, field json_state"),
        (lambda t: t["trace"][0]["data"].update(json_state='[{"x": "wide"}]'), "item 0, field json_state, element 0.x"),
        (lambda t: t["trace"][0]["data"].update(timestamp="yesterday"), "item 0, field data.timestamp"),
        (lambda t: t.update(webarena=[]), "field webarena"),
    ],
)  # fmt: skip
def test_a_malformed_trace_is_refused_by_item_and_field(change: Any, message: str) -> None:
    raw = raw_trace(3)
    change(raw)
    try:
        text = json.dumps(raw)
    except ValueError:  # Python does not write such a number; another program would
        text = json.dumps(raw_trace(3)).replace('"id": 2', '"id": ' + "9" * 5000)
    with pytest.raises(TraceError, match=message):
        parse_trace(text)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "null", '"a"', b"\xff\xfe", "\ud800", '{"trace": [1e999]}'])
def test_what_is_not_a_trace_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(TraceError):
        parse_trace(text)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_malformed_trace_raises_anything_but_a_trace_error(data: st.DataObject) -> None:
    raw = copy.deepcopy(raw_trace(2))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = raw
        for _ in range(data.draw(st.integers(0, 5))):
            keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
            if not keys or not isinstance(place[key := data.draw(st.sampled_from(keys))], dict | list):
                break
            place = place[key]
        if isinstance(place, dict):
            place[data.draw(st.sampled_from([*place, "type", "data", "x"]))] = data.draw(JSON)
        elif place:
            place[data.draw(st.integers(0, len(place) - 1))] = data.draw(JSON)
    try:
        trace = parse_trace(json.dumps(raw))
    except TraceError:
        return
    assert parse_trace(dump_trace(trace)) == trace
    for item in trace.trace:
        target(item) if isinstance(item, ActionItem) else elements(item)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_bytes_raise_anything_but_a_trace_error(text: bytes | str) -> None:
    with pytest.raises(TraceError):
        parse_trace(text)


def test_a_demonstration_finds_its_pictures_by_base_name_only(tmp_path) -> None:
    (tmp_path / "screenshots").mkdir()
    (tmp_path / "screenshots" / "1.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    raw = raw_trace(3)
    raw["trace"][2]["data"]["path_to_screenshot"] = "C:\\shots\\1.png"
    raw["trace"][4]["data"]["path_to_screenshot"] = "screenshots/../../secret.png"
    demo = Demo("7 @ 2024-01-01-10-00-00", 7, "payables", "", parsed(raw), folder=tmp_path)
    assert (len(demo.states), len(demo.actions)) == (3, 2)
    assert [demo.screenshot(k) for k in range(3)] == [None, tmp_path / "screenshots" / "1.png", None]
    with pytest.raises(IndexError):
        demo.screenshot(3)


def test_names() -> None:
    assert is_demo_name("0 @ 2023-12-25-15-10-58") and task_of_name("812 @ 2023-12-25-15-10-58") == 812
    assert is_demo_name("3 @ 2023-12-25-15-10-58 (1)")  # as in the published table
    date = "2023-12-25-15-10-58"
    for bad in ("", f"x @ {date}", "1 @ 2023-12-25", f"../1 @ {date}", f"1 @ {date}\n", f"١ @ {date}", f"1 @ {date} (1)/"):
        assert not is_demo_name(bad)
        with pytest.raises(ValueError, match="not a demonstration's name"):
            task_of_name(bad)
