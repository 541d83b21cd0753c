"""How many requests a second the foundation-model client answers: from its cache, and from an endpoint on loopback."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["BENCHMARKS", "cached", "loopback"]

GOAL = 200  # requests a second from the cache
LATENCY = 0.02  # seconds the stand-in endpoint takes, so that the bound is concurrency / latency


def _time(requests: int, concurrency: int, latency: float, again: bool) -> float:
    """Requests a second through `Client.map`, each with a picture of 100 kB and a schema; ``again`` from the cache."""
    from pydantic import BaseModel

    from sheaf.common.fm import Client, Request
    from sheaf.common.fm.fake_server import FakeServer

    class Step(BaseModel):
        action: str
        element: str

    picture = b"\x89PNG\r\n\x1a\n" + os.urandom(100_000)
    asked = [Request("You automate workflows.", [f"Frame {i}", picture], schema=Step) for i in range(requests)]
    with (
        tempfile.TemporaryDirectory(prefix="sheaf-bench-") as folder,
        FakeServer(lambda body: '{"action": "click", "element": "Save"}', latency) as server,
        Client("stand-in", server.url, cache=Path(folder), concurrency=concurrency) as client,
    ):
        client.ask(Request("", ["connect"]))
        if again:
            client.map(asked)
        begun = time.perf_counter()
        client.map(asked)
        return requests / (time.perf_counter() - begun)


def cached(requests: int = 400) -> str:
    """Requests whose replies are on disk: images hashed, entries checked, replies validated."""
    rate = _time(requests, 8, 0.0, again=True)
    return f"fm cached: {rate:,.0f} requests/s from the cache (goal {GOAL}: {'met' if rate >= GOAL else 'missed'})"


def loopback(requests: int = 400, concurrency: int = 4) -> str:
    """Requests to a stand-in endpoint that takes a fixed time, against the bound that this time sets."""
    rate, bound = _time(requests, concurrency, LATENCY, again=False), concurrency / LATENCY
    return (
        f"fm loopback: {rate:,.0f} requests/s from an endpoint that takes {LATENCY * 1e3:.0f} ms, {concurrency} at a time "
        f"({rate / bound:.0%} of its bound of {bound:.0f}); stored, accounted and with a picture of 100 kB each"
    )


BENCHMARKS: dict[str, Callable[[], str]] = {"fm/cached": cached, "fm/loopback": loopback}
