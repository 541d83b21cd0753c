"""The server process: loopback only, fresh secrets, resets that are seen, the end of it with its parent."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

from sheaf.common.apps import SITES, AppServer, ServerError, serve
from sheaf.common.apps import server as server_module

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serve() as running:
        yield running


def get(server: AppServer, path: str, data: dict[str, str] | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    body = urlencode(data).encode() if data else None
    asked = urllib.request.Request(server.origin + path, data=body, headers=headers)
    try:
        with DIRECT.open(asked, timeout=10) as reply:
            return reply.status, reply.read().decode(), dict(reply.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


class References(HTMLParser):
    """Everything a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.found.append(given["src"] or "")
        if tag == "link" and given.get("href"):
            self.found.append(given["href"] or "")


@pytest.mark.parametrize("site", SITES)
def test_each_site_has_its_pages_and_loads_nothing_from_elsewhere(site: str, server: AppServer) -> None:
    status, page, headers = get(server, f"/{site}/", Cookie=server.cookie())
    assert status == 200 and "default-src 'self'" in headers["Content-Security-Policy"]
    lists = re.findall(rf'<th scope="row"[^>]*>\s*<a href="(/{site}/{site}/\w+/)"', page)
    assert len(lists) >= 4
    for path in lists:
        for one in (path, f"{path}add/"):
            status, page, _ = get(server, one, Cookie=server.cookie())
            references = References()
            references.feed(page)
            assert status == 200 and references.found and all(r.startswith("/") and r[1] != "/" for r in references.found)
            assert all(get(server, r, Cookie=server.cookie())[0] == 200 for r in set(references.found))


def test_strangers_are_turned_away(server: AppServer) -> None:
    assert "login" in get(server, "/store/")[1].lower() and "Coupons" not in get(server, "/store/")[1]
    assert get(server, "/store/", Host="evil.example")[0] == 400  # a name that was rebound to this address
    status, page, _ = get(server, "/store/nothing/", Cookie=server.cookie())
    assert status == 404 and "Traceback" not in page and "DEBUG" not in page
    assert get(server, "/health/guess")[0] == 404
    status, _, _ = get(server, "/store/store/coupon/add/", {"code": "X"}, Cookie=server.cookie())
    assert status == 403  # a form of another page, without the token


def test_only_loopback_listens(server: AppServer) -> None:
    process = psutil.Process(server.pid)
    listening = [c.laddr for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening] == ["127.0.0.1"]
    assert server.origin == f"http://127.0.0.1:{listening[0].port}" and server.healthy()
    assert not any(len(part) > 15 and part in server.cookie() for part in process.cmdline())
    assert server.cookie() not in repr(server)


def test_two_runs_share_data_and_no_secret(server: AppServer) -> None:
    with serve() as other:
        assert other.origin != server.origin and other.cookie() != server.cookie()
        assert "Coupons" not in get(other, "/store/", Cookie=server.cookie())[1]
        for site, model in (("hospital", "claim"), ("payables", "invoice"), ("support", "ticket"), ("store", "product")):
            rows = server.query(f"SELECT * FROM {site}_{model}")
            assert len(rows) >= 18 and rows == other.query(f"SELECT * FROM {site}_{model}")


def test_a_form_changes_the_data_and_a_reset_takes_it_back(server: AppServer) -> None:
    path = "/support/support/agent/1/change/"
    _, page, headers = get(server, path, Cookie=server.cookie())
    cookie = f"{server.cookie()}; csrftoken={headers['Set-Cookie'].split('csrftoken=')[1].split(';')[0]}"
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page)
    assert token
    form = {"csrfmiddlewaretoken": token[1], "name": "Someone Else", "team": "billing", "_save": "Save"}
    status, page, _ = get(server, path, form, Cookie=cookie)
    assert status == 200 and "Select agent to change" in page
    name = "SELECT name FROM support_agent WHERE id = 1"
    assert server.query(name) == [{"name": "Someone Else"}]
    assert server.query(name, seeded=True) == [{"name": "Ines Almeida"}]
    start = time.perf_counter()
    for _ in range(20):
        server.reset()
    assert (time.perf_counter() - start) / 20 < 0.5  # ten times what it may take, to hold on a busy machine
    assert server.query(name) == [{"name": "Ines Almeida"}]
    assert "Ines Almeida" in get(server, path, Cookie=server.cookie())[1]  # the server sees it, and nobody was logged out
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        server.query("DELETE FROM support_agent")
    with pytest.raises(ValueError, match="no site 'bank'; sites: hospital"):
        server.url("bank")


def test_it_ends_with_the_block_and_leaves_nothing(tmp_path: Path) -> None:
    with serve(tmp_path) as own:
        assert own.folder == tmp_path and (tmp_path / "live.sqlite3").is_file()
        pid = own.pid
    assert not psutil.pid_exists(pid)
    with pytest.raises(FileNotFoundError, match="make it first"), serve(tmp_path / "absent"):
        pass


def test_it_ends_with_a_parent_that_is_killed() -> None:
    code = """
        import sys, time
        from sheaf.common.apps import serve
        with serve() as own:
            print(own.pid, flush=True)
            time.sleep(60)
    """
    library = str(Path(server_module.__file__).parents[3])
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": library})  # fmt: skip
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_a_server_that_cannot_start_says_why_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seed.sqlite3").mkdir()
    with pytest.raises(ServerError, match=r"the applications did not start: .*seed\.sqlite3") as error, serve(tmp_path):
        pass
    assert "\n" not in str(error.value)
    monkeypatch.setattr(server_module, "START_SECONDS", 0.0)
    with pytest.raises(ServerError, match="did not start within 0 s"), serve():
        pass
