"""The report in a real Chromium: from file:// with no network, filters, phone, dark, no script, hostile content."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from report_project import build_project

from sheaf.artifact import report
from sheaf.common.browser import launch

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(os.environ.get("SHEAF_NO_BROWSER") == "1", reason="SHEAF_NO_BROWSER=1"),
]

# WCAG contrast of every visible text against the colour behind it; large or bold-large text may have 3, the rest 4.5.
CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.checkVisibility() || e.closest("script,style,svg,option,.hide")) continue;
    const style = getComputedStyle(e), front = light(parse(style.color)), back = light(behind(e));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) bad.push([node.data.trim().slice(0, 30), style.color, ratio]);
  }
  return bad;
}"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_project(tmp_path_factory.mktemp("report") / "a folder's été")
    report.build(root)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as found:
        yield found


@pytest.fixture(scope="module")
def pages(project: Path) -> list[Path]:
    return sorted((project / "results").rglob("*.html"))


@contextmanager
def opened(browser: Any, page: Path, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page from file://, and the list of what went wrong: console errors, exceptions, requests that leave the disk."""
    wrong: list[str] = []
    context = browser.new_context(**options)
    try:
        tab = context.new_page()
        context.set_offline(True)
        tab.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: wrong.append(f"exception: {e}"))
        tab.on("dialog", lambda d: (wrong.append("dialog"), d.dismiss()))
        tab.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(f"request: {r.url}"))
        tab.goto(page.as_uri())
        yield tab, wrong
    finally:
        context.close()


def visible(tab: Any) -> int:
    return tab.locator('[data-row="entry"]:visible').count()


def test_no_request_leaves_the_disk_and_nothing_hostile_runs(browser: Any, pages: list[Path]) -> None:
    for page in pages:
        with opened(browser, page) as (tab, wrong):
            tab.evaluate("for (const image of document.images) image.loading = 'eager'")
            tab.wait_for_function("[...document.images].every((image) => image.complete)")
            assert tab.evaluate("window.pwned") is None, page
            if page.name != "01_evil.html":  # that one holds a picture which is no picture
                assert tab.evaluate("[...document.images].every((image) => image.naturalWidth > 0)"), page
            assert wrong == [], page


def test_the_policy_stops_a_script_that_got_in(browser: Any, project: Path, tmp_path: Path) -> None:
    for name in ("index.html", "laptop/decentralized.html", "laptop/decentralized/notebooks/01_network.html"):
        text = (project / "results" / name).read_text(encoding="utf-8")
        broken = tmp_path / "broken.html"
        attack = "<script>window.pwned=1</script><img src=nowhere onerror='window.pwned=1'>"
        broken.write_text(text.replace("<main", attack + "<main"), encoding="utf-8")
        with opened(browser, broken) as (tab, wrong):
            tab.wait_for_timeout(100)
            assert tab.evaluate("window.pwned") is None
            assert any("Content Security Policy" in line for line in wrong)


def test_search_and_filters_of_a_paper(browser: Any, project: Path) -> None:
    with opened(browser, project / "results/laptop/decentralized.html") as (tab, wrong):
        assert visible(tab) == 10 and tab.locator("#_found").inner_text() == "10 entries"
        tab.select_option("#_verdict", label="not reproduced")
        assert visible(tab) == 1 and tab.locator("tr#C2").is_visible() and not tab.locator("#_tables").is_visible()
        assert tab.locator("#_found").inner_text() == "1 of 10 entries"
        tab.click("#_reset")
        tab.select_option("#_kind", "table")
        assert visible(tab) == 3 and not tab.locator("tr#C1").is_visible()
        tab.click("#_reset")
        tab.fill("#_search", "WORLD-wide  scheduled")
        assert visible(tab) == 1 and tab.locator("tr#C1").is_visible()
        tab.fill("#_search", "nothing like this")
        assert visible(tab) == 0
        tab.evaluate("location.hash = '#C3'")  # a link to a hidden entry shows it
        tab.wait_for_function("document.getElementById('C3').checkVisibility()")
        assert visible(tab) == 10 and wrong == []


def test_search_and_filters_of_the_board(browser: Any, project: Path) -> None:
    with opened(browser, project / "results/index.html") as (tab, wrong):
        everything = visible(tab)
        tab.select_option("#_paper", "decentralized")
        assert visible(tab) == 10 and tab.locator(".board tbody tr:visible").count() == 1
        tab.select_option("#_verdict", label="inconclusive")
        assert visible(tab) == 1 and tab.locator(".board tbody tr:visible").count() == 1
        tab.click("#_reset")
        tab.select_option("#_profile", "laptop")
        assert visible(tab) == everything and tab.locator(".board tbody tr:visible").count() == 2
        tab.click('.entries a[href$="decentralized.html#C3"]')
        assert tab.url.endswith("laptop/decentralized.html#C3") and tab.locator("tr#C3").is_visible()
        tab.click(".crumbs a")
        assert tab.url.endswith("results/index.html") and wrong == []


def test_promises_are_reached_by_clicking_and_say_what_broke(browser: Any, project: Path) -> None:
    with opened(browser, project / "results/index.html") as (tab, wrong):
        tab.click("text=Promises")
        assert tab.url.endswith("results/promises.html") and tab.locator("tr#kernel-death").is_visible()
        assert not tab.locator("tr#report li").first.is_visible()
        tab.click("tr#report summary")
        assert tab.locator("tr#report li").first.is_visible() and tab.locator("tr#report li").count() == 10
        assert "and 2 more" in tab.locator("tr#report details").inner_text()
        tab.click(".crumbs a")
        assert tab.url.endswith("results/index.html") and wrong == []


def test_the_notebook_is_reached_by_clicking_and_leads_back(browser: Any, project: Path) -> None:
    with opened(browser, project / "results/laptop/decentralized.html") as (tab, wrong):
        tab.click("tr#C1 .origin a")
        assert tab.locator("main h1").inner_text().startswith("The network")
        tab.click("text=the search")
        assert tab.url.endswith("02_search.html")
        tab.click(".crumbs a")
        assert tab.url.endswith("laptop/decentralized.html") and wrong == []


def test_by_keyboard_alone(browser: Any, project: Path) -> None:
    with opened(browser, project / "results/laptop/decentralized.html") as (tab, _):
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        assert tab.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
        for _ in range(30):
            tab.keyboard.press("Tab")
            if tab.evaluate("document.activeElement.id") == "_search":
                break
        tab.keyboard.type("hundred times slower")
        assert visible(tab) == 1
        outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


@pytest.mark.parametrize("width", [320, 375])
def test_a_phone_never_scrolls_sideways(browser: Any, pages: list[Path], width: int) -> None:
    for page in pages:
        with opened(browser, page, viewport={"width": width, "height": 700}) as (tab, _):
            wide = tab.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (page, wide)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(browser: Any, pages: list[Path], scheme: str) -> None:
    for page in pages:
        with opened(browser, page, color_scheme=scheme) as (tab, _):
            red, green, blue = tab.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
            )
            assert (max(red, green, blue) < 60) if scheme == "dark" else (min(red, green, blue) > 230)
            assert tab.evaluate(CONTRAST) == [], page


def test_without_javascript_all_is_shown_and_no_dead_control(browser: Any, project: Path) -> None:
    for name, entries in (("index.html", 41), ("laptop/decentralized.html", 10)):
        with opened(browser, project / "results" / name, java_script_enabled=False) as (tab, _):
            assert tab.locator('[data-row="entry"]').count() == entries
            assert all(row.is_visible() for row in tab.locator('[data-row="entry"]').all())
            assert not tab.locator(".filters").is_visible()


def test_on_paper_the_controls_are_gone_and_tables_are_whole(browser: Any, project: Path) -> None:
    with opened(browser, project / "results/laptop/decentralized.html") as (tab, _):
        tab.emulate_media(media="print")
        assert not tab.locator(".filters").is_visible() and tab.locator("tr#C1").is_visible()
        assert tab.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"


def test_the_picture_of_the_board_shows_in_both_schemes(browser: Any, project: Path, tmp_path: Path) -> None:
    source = (project / "results/scoreboard.svg").as_uri()
    frame = tmp_path / "frame.html"
    frame.write_text(f'<!doctype html><meta name="color-scheme" content="light dark"><img src="{source}">')
    shots = []
    for scheme in ("light", "dark"):
        with opened(browser, frame, color_scheme=scheme) as (tab, wrong):
            tab.wait_for_function("document.images[0].naturalWidth === 880")
            shots.append(tab.screenshot())
            assert wrong == []
    assert shots[0] != shots[1]
