"""Recording a real page: what is seen, what is done, and what the browser may reach."""

import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from demo_pages import serve
from PIL import Image

from sheaf.common.browser import find_chromium, launch
from sheaf.wonderbread.dsl import describe
from sheaf.wonderbread.loader import broken_pictures, load_demo
from sheaf.wonderbread.recorder import Recorder, Recording, Style, nominal_clock, restricted_context, write_recording
from sheaf.wonderbread.trace import dump_trace, elements, parse_trace, target

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]
NAME = "7 @ 2024-01-01-09-00-00"
Record = Callable[..., Recording]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as started:
        yield started


@pytest.fixture
def record(browser: Any) -> Record:
    def run(steps: Callable[[Recorder], None], style: Style | None = None) -> Recording:
        with serve() as (origin, _), restricted_context(browser, origin) as context:
            recorder = Recorder(context.new_page(), origin, style or Style(), nominal_clock())
            steps(recorder)
            return recorder.finish({"task_id": 7, "sites": ["store"]}, datetime(2024, 1, 1, 9))

    return run


def pay(recorder: Recorder) -> None:
    recorder.open("/")
    recorder.fill("Vendor:", "O'Brien \\ Co")
    recorder.select("Status:", "Ready to pay")
    recorder.fill("Notes:", "a\nb")
    recorder.check("Urgent")
    recorder.check("Urgent")  # already ticked: nothing to do, nothing recorded
    recorder.scroll(300)
    recorder.scroll(200)
    recorder.press("Tab")
    recorder.press("Escape")
    recorder.click("button", "Save")
    recorder.open("/done?again=1")


@pytest.fixture(scope="module")
def paid(browser: Any) -> Recording:
    with serve() as (origin, _), restricted_context(browser, origin) as context:
        recorder = Recorder(context.new_page(), origin, Style(), nominal_clock())
        pay(recorder)
        return recorder.finish({"task_id": 7, "sites": ["store"]}, datetime(2024, 1, 1, 9))


def test_every_action_is_recorded_in_the_papers_terms(paid: Recording) -> None:
    said = [describe(item) for item in paid.trace.trace if item.type == "action"]
    assert said == [
        "Click on the text field labeled 'Vendor:'",
        "Type the string 'O'Brien \\ Co' in the text field labeled 'Vendor:'",
        "Click on the dropdown labeled 'Status:'",
        "Type the string 'Ready to pay' in the dropdown labeled 'Status:'",
        "Click on the text labeled 'Notes:'",
        "Type the string 'a' in the text labeled 'Notes:'",
        "Press the key 'Enter'",
        "Type the string 'b' in the text labeled 'Notes:'",
        "Click on the text field labeled 'Urgent'",
        "Scroll down by 500 pixels",
        "Press the key 'Tab'",
        "Click on the text field labeled 'Save'",
        "Type the string 'http://apps.invalid/done?again=1'",
        "Press the key 'Enter'",
    ]
    assert parse_trace(dump_trace(paid.trace)) == paid.trace and len(paid.screenshots) == 15


def test_a_state_is_taken_just_before_its_action(paid: Recording) -> None:
    states = [item for item in paid.trace.trace if item.type == "state"]
    vendor = [next((e.text for e in elements(s) if e.label == "Vendor:"), None) for s in states[:3]]
    assert vendor == ["old vendor", "old vendor", "O'Brien \\ Co"]
    first, last = states[0].data, states[-1].data
    assert (first.url, first.tab) == ("http://apps.invalid/", "Invoices")
    assert (last.url, last.tab) == ("http://apps.invalid/done?again=1", "Saved")
    assert "Ready+to+pay" in (states[-2].data.url or "") and "O%27Brien" in (states[-2].data.url or "")
    hit = target(paid.trace.trace[1])
    assert hit is not None and (hit.tag, hit.value, hit.xpath) == ("input", "old vendor", "/html[1]/body[1]/form[1]/input[1]")
    assert "127.0.0.1" not in dump_trace(paid.trace)  # no port of this machine goes on record


def test_only_visible_elements_of_the_seven_tags_and_text_are_listed(paid: Recording) -> None:
    raw = json.loads(paid.trace.trace[0].data.json_state or "")
    assert all(list(e) == ["x", "y", "width", "height", "text", "role", "type", "tag", "label", "xpath"] for e in raw)
    assert {e["tag"] for e in raw} == {"text", "label", "input", "select", "textarea", "button", "a", "img"}
    assert all(e["width"] > 3 and e["height"] > 3 and 0 <= e["y"] < 720 for e in raw)
    texts = {e["text"] for e in raw}
    assert {"New invoice", "Fill in the form.", "tracker", "All invoices"} <= texts
    assert not {"never seen", "far below"} & texts


def test_two_recordings_are_equal_but_for_pixels(record: Record, paid: Recording) -> None:
    assert dump_trace(record(pay).trace) == dump_trace(paid.trace)


def test_pictures_are_kept_as_the_style_says(record: Record, tmp_path: Path) -> None:
    style = Style(scale=0.25, colours=8, html=False)
    recording = record(lambda r: r.open("/"), style)
    assert recording.trace.trace[0].data.html is None
    folder = tmp_path / NAME
    folder.mkdir()
    write_recording(recording, folder, NAME, style)
    demo = load_demo(folder)
    path = demo.screenshot(0)
    assert broken_pictures(demo) == [] and path is not None
    with Image.open(path) as image:
        assert image.size == (320, 180) and image.mode == "P" and len(image.getcolors() or []) <= 8
    with Image.open(io.BytesIO(recording.screenshots[0])) as image:
        assert image.size == (1280, 720)
    for scale, colours in [(0.0, 0), (1.5, 0), (1.0, 1), (1.0, 300)]:
        with pytest.raises(ValueError, match="scale must lie"):
            Style(scale=scale, colours=colours)


def test_nothing_recorded_is_an_error(record: Record) -> None:
    with pytest.raises(ValueError, match="starts by opening"):
        record(lambda r: None)


def test_the_browser_reaches_one_origin_and_nothing_else(browser: Any) -> None:
    fetch = "(url) => fetch(url, {mode: 'no-cors'}).then(() => 'reached', () => 'stopped')"
    socket = """(url) => new Promise((done) => {
        const s = new WebSocket(url);
        s.onopen = () => done("reached");
        s.onerror = () => done("stopped");
    })"""
    with serve() as (other, asked), serve(other) as (origin, _), restricted_context(browser, origin) as context:
        page = context.new_page()
        page.goto(origin)  # holds a picture of the other origin
        assert page.evaluate(fetch, origin + "/done") == "reached"
        assert page.evaluate(fetch, other + "/script") == "stopped"
        assert page.evaluate(fetch, origin + "/away") == "stopped"  # a redirect, which interception alone lets through
        assert page.evaluate(fetch, f"{origin}@{other.removeprefix('http://')}/") == "stopped"  # the origin as a user name
        assert page.evaluate(socket, other.replace("http", "ws")) == "stopped"
        page.evaluate("(url) => { window.open(url); navigator.sendBeacon(url, 'x') }", other + "/beacon")
        page.wait_for_timeout(200)
        assert asked == []
        assert page.evaluate(fetch, origin + "/done") == "reached"


def test_an_origin_is_required(browser: Any) -> None:
    for bad in ("127.0.0.1:80", "file:///tmp", "http://127.0.0.1:80/admin"):
        with pytest.raises(ValueError, match="an origin looks like"), restricted_context(browser, bad):
            pass
