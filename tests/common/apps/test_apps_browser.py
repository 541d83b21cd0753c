"""A workflow of each site in a real Chromium: the direct way reaches the goal, the wrong one does not."""

from collections.abc import Iterator
from typing import Any

import pytest

from sheaf.common.apps import WORKFLOWS, AppServer, PageDriver, serve
from sheaf.common.browser import find_chromium, launch

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]
ONE_A_SITE = ("hospital/correct_code", "payables/hold_vendors", "support/reply_ticket", "store/delete_coupon")


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[AppServer, Any]]:
    with serve() as server, launch() as browser:
        yield server, browser


def play(running: tuple[AppServer, Any], name: str, filling: int, policy: str) -> tuple[bool, list[str]]:
    """Whether the goal was reached, and what the page complained of or asked for outside its server."""
    server, browser = running
    workflow, troubles = WORKFLOWS[name], list[str]()
    slots = workflow.fillings[filling]
    server.reset()
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    try:
        server.login(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("request", lambda r: None if r.url.startswith((server.origin, "data:")) else troubles.append(r.url))
        workflow.perform(PageDriver(page, server.origin), slots, policy)
        return workflow.check(server, slots), troubles
    finally:
        context.close()


@pytest.mark.parametrize("name", ONE_A_SITE)
def test_direct_reaches_the_goal_and_wrong_does_not(running: tuple[AppServer, Any], name: str) -> None:
    assert play(running, name, 0, "direct") == (True, [])
    assert play(running, name, 1, "wrong") == (False, [])


@pytest.mark.parametrize(("name", "policy"), [
    ("support/close_waiting", "keyboard"), ("hospital/submit_claims", "redundant"), ("store/restock_product", "backtrack"),
    ("payables/approve_invoice", "detour"),
])  # fmt: skip
def test_other_ways_reach_it_too(running: tuple[AppServer, Any], name: str, policy: str) -> None:
    assert play(running, name, 2, policy) == (True, [])
