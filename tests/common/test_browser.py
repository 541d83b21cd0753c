"""The browser launcher: what it says when there is no Chromium, and that it never leaves one running."""

import os
from pathlib import Path

import pytest

from sheaf.common import browser


def test_a_missing_chromium_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SHEAF_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    with (
        pytest.raises(browser.BrowserMissing, match=r"no Chromium was found; install one .*apt-get install chromium"),
        browser.launch(),
    ):
        pass


def test_a_wrong_name_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHEAF_CHROMIUM", str(tmp_path / "nothing"))
    with pytest.raises(browser.BrowserMissing, match=r"SHEAF_CHROMIUM is .* not a file"):
        browser.find_chromium()


def test_a_program_that_is_no_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("SHEAF_CHROMIUM", str(fake))
    with pytest.raises(browser.BrowserMissing, match="Chromium did not start"), browser.launch():
        pass


@pytest.mark.browser
@pytest.mark.skipif(os.environ.get("SHEAF_NO_BROWSER") == "1", reason="SHEAF_NO_BROWSER=1")
def test_it_opens_a_page_and_closes_on_error() -> None:
    with browser.launch() as found:
        page = found.new_page()
        page.set_content("<h1>hello</h1>")
        assert page.inner_text("h1") == "hello"
    assert not found.is_connected()
    with pytest.raises(RuntimeError, match="stop"), browser.launch() as found:
        raise RuntimeError("stop")
    assert not found.is_connected()
