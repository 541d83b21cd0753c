"""The clean-up of raw events: what each step keeps, adds up and drops."""

from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheaf.wonderbread.dsl import typed_text
from sheaf.wonderbread.events import (
    RawEvent,
    clean_up,
    drop_escape,
    drop_half_events,
    is_typing,
    merge_keys,
    merge_scrolls,
    merge_states,
    to_trace,
)  # fmt: skip
from sheaf.wonderbread.trace import dump_trace, parse_trace

KEYS = ["'a'", "'b'", "Key.space", "Key.shift", "Key.backspace", "Key.enter", "Key.tab", "Key.esc"]


def press(key: str, time: float = 0.0, xpath: str = "/a", app: str = "Chromium") -> RawEvent:
    return RawEvent("keypress", time, key=key, element={"xpath": xpath}, app=app)


def scroll(dy: float, x: float = 0.0, dx: float = 0.0, time: float = 0.0) -> RawEvent:
    return RawEvent("scroll", time, x=x, y=0.0, dy=dy, dx=dx)


def state(url: str = "u", time: float = 0.0) -> RawEvent:
    return RawEvent("state", time, state={"url": url})


@st.composite
def recordings(draw: st.DrawFn) -> list[RawEvent]:
    """State, one action, state, …, state, as a recorder makes it, with rising times."""
    actions = st.one_of(
        st.builds(press, st.sampled_from(KEYS), xpath=st.sampled_from(["/a", "/b"]), app=st.sampled_from(["x", "y"])),
        st.builds(scroll, st.integers(-50, 50).map(float), x=st.sampled_from([0.0, 9.0, 18.0, 100.0])),
        st.just(RawEvent("mouseup", 0.0, x=1.0, y=1.0)),
    )
    out = [state("u0")]
    for k, event in enumerate(draw(st.lists(actions, max_size=15)), start=1):
        out += [event, state(f"u{k}")]
    return [RawEvent(**{**vars(e), "time": float(t)}) for t, e in enumerate(out)]


@given(recordings())
def test_a_cleaned_recording_alternates_and_loses_no_key_and_no_pixel(raw: list[RawEvent]) -> None:
    cleaned = clean_up(raw)
    assert [e.kind == "state" for e in cleaned] == [i % 2 == 0 for i in range(len(cleaned))] and len(cleaned) % 2
    keys = [k for e in raw if e.kind == "keypress" and e.key != "Key.esc" for k in [e.key]]
    assert [k for e in cleaned if e.kind in ("keypress", "keystroke") for k in (e.key or "").split()] == keys
    assert sum(e.dy for e in cleaned) == sum(e.dy for e in raw)
    assert [e.time for e in cleaned] == sorted(e.time for e in cleaned)
    assert cleaned[-1].state == raw[-1].state
    parse_trace(dump_trace(to_trace(cleaned, {}, datetime(2024, 1, 1))))


@given(recordings())
def test_no_two_typing_runs_of_one_element_stay_apart(raw: list[RawEvent]) -> None:
    actions = [e for e in clean_up(raw) if e.kind != "state"]
    for one, two in pairwise(actions):
        assert not (is_typing(one) and is_typing(two) and (one.xpath, one.app) == (two.xpath, two.app))
    assert all(is_typing(e) == (e.kind == "keystroke") for e in actions)


@given(recordings())
def test_the_state_before_an_action_is_the_last_one_before_it_began(raw: list[RawEvent]) -> None:
    cleaned = clean_up(raw)
    began = {e.time: before for before, e in pairwise(raw)}
    for before, event in pairwise(cleaned):
        if event.kind == "mouseup":  # never merged, so its own state must be the one kept
            assert before == began[event.time]


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8))
def test_scrolls_at_one_point_add_up(steps: list[int]) -> None:
    events = [scroll(float(dy), x=float(i % 3), dx=1.0, time=float(i)) for i, dy in enumerate(steps)]
    (merged,) = merge_scrolls(events)
    assert (merged.dy, merged.dx, merged.time) == (sum(steps), len(steps), len(steps) - 1)


def test_scrolls_at_two_points_or_around_a_click_stay_apart() -> None:
    assert [e.dy for e in merge_scrolls([scroll(1), scroll(1, x=10.0), scroll(1, x=10.1)])] == [2, 1]  # from the first
    assert len(merge_scrolls([scroll(1), scroll(1, x=11.0)])) == 2
    assert len(merge_scrolls([scroll(1), RawEvent("mouseup", 0.0), scroll(1)])) == 3


def test_states_seen_inside_a_run_move_behind_it() -> None:
    events = [state("before"), press("'h'", 1), state("h"), press("'i'", 2), state("hi")]
    kept = clean_up(events)
    assert [(e.kind, e.key or e.state["url"], e.time) for e in kept] == [
        ("state", "before", 0.0), ("keystroke", "'h' 'i'", 2), ("state", "hi", 0.0),
    ]  # fmt: skip


def test_keys_of_other_elements_or_applications_stay_apart() -> None:
    runs = merge_keys([press("'a'"), press("'b'", xpath="/b"), press("'c'", xpath="/b", app="Mail"), press("Key.enter")])
    assert [e.key for e in runs] == ["'a'", "'b'", "'c'", "Key.enter"]
    assert [e.kind for e in runs] == ["keystroke"] * 3 + ["keypress"]


def test_escape_and_half_events_go_and_states_keep_the_last() -> None:
    assert drop_escape([press("Key.esc"), press("Key.tab")]) == [press("Key.tab")]
    halves = [RawEvent("mousedown", 0.0), RawEvent("mouseup", 0.0), RawEvent("keyrelease", 0.0, key="'a'")]
    assert [e.kind for e in drop_half_events(halves)] == ["mouseup"]
    assert merge_states([state("1"), state("2"), press("'a'"), state("3")])[0] == state("2")


def test_a_trace_is_numbered_as_published() -> None:
    events = [state(), press("'h'", 1.5), state(time=2), scroll(5, time=3), state(time=4)]
    trace = to_trace(clean_up(events), {"task_id": 1}, datetime(2024, 1, 1, 9))
    assert [(i.data.id, i.data.step) for i in trace.trace] == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)]
    assert trace.trace[1].data.timestamp == "2024-01-01T09:00:01.500000" and trace.trace[1].data.secs_from_start == 1.5
    assert typed_text(trace.trace[1]) == "h"


@pytest.mark.parametrize(
    "events",
    [[], [state(), press("'a'")], [press("'a'")], [state()] * 3, [state(), RawEvent("mousedown", 0.0), state()]],
)
def test_what_does_not_alternate_is_no_trace(events: list[RawEvent]) -> None:
    with pytest.raises(ValueError, match=r"alternates|clean it up"):
        to_trace(events, {}, datetime(2024, 1, 1))
