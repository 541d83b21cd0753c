"""The report: nothing hostile that a record, a notebook or a file holds is run; pages are small, quiet and accessible."""

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import report_project
from drive import REPO
from ledger import Promise
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from payloads import PAYLOADS as ALL

from sheaf.artifact import report
from sheaf.artifact.report.files import svg_problem
from sheaf.common.browser import launch

pytestmark = [
    pytest.mark.promise(
        "report-safety", "Opening the report runs nothing that it shows; every page is small, quiet, and can be read by all.",
        "script injections in titles, records, tables, outputs, replies of models, file names and SVG, in a real Chromium; "
        "page budgets and axe on the pages of this repository",
    ),
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("SHEAF_NO_BROWSER") == "1", reason="SHEAF_NO_BROWSER=1"),
]  # fmt: skip
PAYLOADS = ALL if os.environ.get("SHEAF_PROVE") == "1" else ALL[::5]
FIRST_LOAD = 2_000_000  # bytes of a page with what it fetches before anybody scrolls
PROVOKE = """() => { for (const e of document.querySelectorAll("*")) {
  if (e.tagName === "DETAILS") e.open = true;
  for (const kind of ["mouseover", "mouseenter", "focus", "blur", "input", "toggle", "error", "load", "begin", "pointerdown"])
    e.dispatchEvent(new Event(kind, {bubbles: true}));
  if (e.tagName === "A" && !/^(https?|file):/.test(e.href)) e.click();
  if (e.tagName === "BUTTON" || e.tagName === "INPUT" || e.tagName === "SUMMARY") e.click();
} }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as found:
        yield found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose every text is a payload, in outputs also as a model's reply in a table and as raw HTML."""
    root = tmp_path_factory.mktemp("hostile") / "project"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_project, "EVIL", PAYLOADS)
        report_project.build_project(root)
    file = root / "results/laptop/toy_hostile/notebooks/01_evil.ipynb"
    nb = nbformat.read(file, as_version=4)
    replies = pd.DataFrame({"reply": PAYLOADS, "model": PAYLOADS[::-1]}, index=list(PAYLOADS))
    for k, text in enumerate(PAYLOADS):
        shown = [
            new_output("display_data", data={kind: text})
            for kind in ("text/html", "text/markdown", "text/latex", "text/plain")
        ]
        shown.append(
            new_output("display_data", data={"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'>{text}</svg>"})
        )
        nb.cells += [
            new_markdown_cell(text, id=f"m{k}"),
            new_code_cell(text, id=f"c{k}", execution_count=1, outputs=shown),
        ]
    shown = [
        new_output("display_data", data={"text/html": html})
        for html in (replies.to_html(), replies.to_html(escape=False))
    ]
    nb.cells.append(new_code_cell("replies", id="replies", execution_count=1, outputs=shown))
    nbformat.write(nb, file)
    report.build(root)
    return root


def opened(browser: Any, page: Path, **options: Any) -> tuple[Any, list[str]]:
    """A page from the disk without a network; the caller closes its context."""
    context, wrong = browser.new_context(**options), []
    context.set_offline(True)
    tab = context.new_page()
    tab.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda e: wrong.append(f"exception: {e}"))
    tab.on("dialog", lambda d: (wrong.append("dialog"), d.dismiss()))
    tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(f"request: {r.url}"))
    tab.on("popup", lambda p: wrong.append(f"window: {p.url}"))
    tab.goto(page.as_uri())
    return tab, wrong


def ran(tab: Any) -> list[int]:
    return tab.evaluate("Object.keys(window).filter((k) => /^p\\d+$/.test(k)).map((k) => Number(k.slice(1)))")


def test_no_payload_runs(promise: Promise, browser: Any, hostile: Path) -> None:
    for page in sorted((hostile / "results").rglob("*.html")):
        tab, wrong = opened(browser, page)
        tab.evaluate("for (const image of document.images) image.loading = 'eager'")
        tab.wait_for_timeout(300)
        before = ran(tab)
        address = tab.url
        tab.evaluate(PROVOKE)
        tab.wait_for_timeout(200)
        found, policy = {*before, *(ran(tab) if tab.url.partition("#")[0] == address else [])}, tab.content()
        left = tab.url.partition("#")[0] != address and not tab.url.startswith("file:")
        name = page.relative_to(hostile / "results").as_posix()
        for text in PAYLOADS:
            promise.trial(ALL.index(text) not in found, f"{name} runs {text!r}")
        outside = [w for w in wrong if not w.startswith("console: ")]  # the policy says on the console what it refuses
        promise.trial(not outside and not left, f"{name}: {outside[:3]}, at {tab.url}")
        promise.trial("Content-Security-Policy" in policy and "default-src 'none'" in policy, f"{name} has no policy")
        tab.context.close()


def test_no_drawing_that_acts_is_linked(promise: Promise, browser: Any, tmp_path: Path) -> None:
    """A figure is an SVG file, which a click opens as a page of its own."""
    for k, text in enumerate(PAYLOADS):
        for form in (
            "<svg xmlns='http://www.w3.org/2000/svg'>{}</svg>",
            "<svg xmlns='http://www.w3.org/2000/svg' id='{}'/>",
        ):
            file = tmp_path / f"{k}.svg"
            file.write_text(form.format(text), encoding="utf-8")
            if svg_problem(file):
                promise.trial(True, "")
                continue
            tab, wrong = opened(browser, file)
            tab.wait_for_timeout(30)
            promise.trial(not ran(tab) and not wrong, f"a drawing with {text!r} is shown: {wrong[:2]}")
            tab.context.close()
    drawings = sorted((REPO / "results").glob("*/*/figures/*.svg"))
    promise.trial(not [f.name for f in drawings if svg_problem(f)] and bool(drawings), "our own drawings are refused")


def pages(promise: Promise) -> list[Path]:
    """Pages of this repository: all, or a small one."""
    every = sorted((REPO / "results").rglob("*.html"))
    return every if promise.full else [min((p for p in every if "notebooks" not in p.parts), key=lambda p: p.stat().st_size)]


def test_budgets(promise: Promise, browser: Any) -> None:
    for page in pages(promise):
        name = page.relative_to(REPO).as_posix()
        tab, wrong = opened(browser, page)
        fetched = tab.evaluate(
            "performance.getEntriesByType('resource').map((e) => e.name).filter((n) => n.startsWith('file:'))"
        )
        size = page.stat().st_size + sum(
            Path(url.removeprefix("file://")).stat().st_size for url in set(fetched) if "%" not in url
        )
        promise.trial(size <= FIRST_LOAD, f"{name}: {size} bytes at first load")
        promise.trial(not wrong, f"{name}: {wrong[:3]}")
        promise.figures["largest first load, bytes"] = max(
            size, int(promise.figures.get("largest first load, bytes", 0))
        )
        tab.context.close()


def test_accessibility(promise: Promise, browser: Any) -> None:
    """axe's rules: no serious or critical finding, on light and on dark pages."""
    axe = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    tried: set[Path] = set()  # pages of one notebook after another are made alike: one of each folder
    for page in pages(promise):
        if "notebooks" in page.parts and page.parent in tried:
            continue
        tried.add(page.parent)
        for scheme in ("light", "dark") if promise.full else ("light",):
            tab, _ = opened(browser, page, color_scheme=scheme)
            tab.evaluate(axe)
            found = tab.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
            bad = [
                f"{v['id']} ({len(v['nodes'])}): {v['nodes'][0]['html'][:90]}"
                for v in found
                if v["impact"] in ("serious", "critical")
            ]
            promise.trial(not bad, f"{page.relative_to(REPO)} ({scheme}): {bad[:4]}")
            tab.context.close()
