"""One way to a real Chromium: found on this machine, sandboxed, with one clear sentence when there is none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["BrowserMissing", "find_chromium", "launch"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class BrowserMissing(RuntimeError):
    """There is no Chromium, or no Playwright to drive it; the message says how to get it."""


def find_chromium() -> str | None:
    """Path of a Chromium: ``SHEAF_CHROMIUM`` when set, else the first one on PATH, else None.

    Raises:
        BrowserMissing: ``SHEAF_CHROMIUM`` names something that is not a file.
    """
    if named := os.environ.get("SHEAF_CHROMIUM"):
        if not Path(named).is_file():
            raise BrowserMissing(f"SHEAF_CHROMIUM is {named!r}, which is not a file; name a Chromium, or unset it")
        return named
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def launch(**options: Any) -> Iterator["Browser"]:
    """A headless Chromium for the length of a ``with`` block; ``options`` go to Playwright's ``launch``.

    The sandbox is on, except for root, whom Chromium refuses to sandbox. Without a Chromium of the system the one
    that ``playwright install chromium`` fetches is used.

    Raises:
        BrowserMissing: no Playwright, no Chromium, or one that does not start.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise BrowserMissing("Playwright is not installed; run: pip install 'playwright>=1.50'") from None
    path = find_chromium()
    with sync_playwright() as driver:
        if path is None and not Path(driver.chromium.executable_path).is_file():
            raise BrowserMissing(
                "no Chromium was found; install one (Debian and Ubuntu: apt-get install chromium; elsewhere: "
                "playwright install chromium) or name it in SHEAF_CHROMIUM"
            )
        settings = {"executable_path": path, "headless": True, "chromium_sandbox": os.geteuid() != 0} | options
        try:
            browser = driver.chromium.launch(**settings)
        except Error as error:
            first = str(error).strip().splitlines()[0]
            raise BrowserMissing(f"Chromium did not start ({first}); check that {path or 'it'} runs here") from None
        try:
            yield browser
        finally:
            browser.close()
