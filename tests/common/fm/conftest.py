"""A client against a stand-in endpoint, with waits that fit a test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sheaf.common.fm import Backoff, Client
from sheaf.common.fm.fake_server import FakeServer

KEY = "sk-canary-7f3a9b2c5d8e1f4a6b0c"
QUICK = Backoff(first=0.005, longest=0.02)


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """Starts stand-in endpoints that end with the test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(FakeServer(*args, **options))


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Makes clients of a stand-in endpoint, with a cache in ``tmp_path / "cache"`` unless another is given."""
    with ExitStack() as stack:

        def make(server: FakeServer, **options: Any) -> Client:
            settings = {"model": "m", "base_url": server.url, "api_key": KEY, "cache": tmp_path / "cache", "backoff": QUICK}
            return stack.enter_context(Client(**(settings | options)))

        yield make
