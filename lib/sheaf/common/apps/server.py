"""Starts the applications in a process of their own on a loopback port, resets them and asks their database."""

import json
import os
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

__all__ = ["AppServer", "ServerError", "serve"]

SITES = ("hospital", "payables", "support", "store")
START_SECONDS, STOP_SECONDS = 60.0, 5.0
SEED, LIVE = "seed.sqlite3", "live.sqlite3"


class ServerError(RuntimeError):
    """The applications did not start or no longer answer; the message says why."""


@dataclass(frozen=True)
class AppServer:
    """Running applications.

    Attributes:
        origin: ``http://127.0.0.1:port``.
        folder: holds the seeded database and the live one.
        pid: of the server process.
    """

    origin: str
    folder: Path
    pid: int
    _cookie: str = field(repr=False)
    _token: str = field(repr=False)

    def url(self, site: str) -> str:
        """The start page of a site.

        Raises:
            ValueError: there is no such site.
        """
        if site not in SITES:
            raise ValueError(f"no site {site!r}; sites: {', '.join(SITES)}")
        return f"{self.origin}/{site}/"

    def reset(self) -> None:
        """Puts the seeded data back, for all sites; those logged in stay so."""
        fresh = self.folder / f".{LIVE}.new"
        shutil.copyfile(self.folder / SEED, fresh)
        fresh.replace(self.folder / LIVE)  # a request under way keeps the file it opened; the next one sees this one

    def query(self, sql: str, parameters: Sequence[Any] = (), seeded: bool = False) -> list[dict[str, Any]]:
        """The rows of a query on the live (or the seeded) data, read-only; tables are called ``<site>_<model>``.

        Raises:
            sqlite3.Error: the query is wrong, or writes.
        """
        path = self.folder / (SEED if seeded else LIVE)
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, tuple(parameters))]

    def login(self, context: "BrowserContext") -> None:
        """Makes a browser context the office worker who may do everything; lasts over resets."""
        context.add_cookies([{"name": "sessionid", "value": self._cookie, "url": self.origin, "httpOnly": True}])

    def cookie(self) -> str:
        """The ``Cookie`` header of the office worker, for clients that are no browser."""
        return f"sessionid={self._cookie}"

    def healthy(self) -> bool:
        """Whether the process that was started is the one that answers."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.origin}/health/{self._token}", timeout=5) as reply:
                return reply.status == 200
        except (URLError, OSError):
            return False


@contextmanager
def serve(folder: Path | None = None) -> Iterator[AppServer]:
    """The four applications, seeded and running, for the length of a ``with`` block.

    The server listens on 127.0.0.1 at a port the system picks, draws its secrets anew each time, and ends with this
    process however that ends.

    Args:
        folder: an existing folder for the databases; a temporary one by default.

    Raises:
        ServerError: the server did not start.
        FileNotFoundError: no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"the folder for the applications' data does not exist: {folder.name!r}; make it first")
    with tempfile.TemporaryDirectory(prefix="sheaf-apps-") as scratch:
        home = Path(folder or scratch).resolve()
        with (Path(scratch) / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sheaf.common.apps.worker", str(home)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, env=_environment(), cwd=home,
            )  # fmt: skip
            try:
                said = _handshake(process, Path(scratch) / "log")
                server = AppServer(f"http://127.0.0.1:{said['port']}", home, process.pid, said["cookie"], said["token"])
                if not server.healthy():
                    raise ServerError(f"the applications started but do not answer at {server.origin}; is loopback blocked?")
                yield server
            finally:
                _stop(process)


def _environment() -> dict[str, str]:
    """This package can be imported there as here; Django settings of the surroundings are left out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    library = str(Path(__file__).resolve().parents[3])
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [library, kept.get("PYTHONPATH", "")]))}


def _handshake(process: "subprocess.Popen[bytes]", log: Path) -> dict[str, Any]:
    """The one line the server prints when it listens."""
    assert process.stdout is not None  # made with a pipe
    deadline, line = time.monotonic() + START_SECONDS, b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ServerError(f"the applications did not start within {START_SECONDS:g} s")
        part = os.read(process.stdout.fileno(), 65536)
        if not part:
            process.wait(STOP_SECONDS)
            last = (log.read_text(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise ServerError(f"the applications did not start: {last}")
        line += part
    return json.loads(line)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Closing its standard input tells the server to end."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
