"""Promises: tests that count. `make prove` runs them at full size and writes results/promises/record.json; `make test` runs a part."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "artifact")]  # ledger, and the toy project of the foundation's tests
from ledger import PROPERTY, Promise, write  # noqa: E402

from sheaf.artifact.provenance import Clock, provenance  # noqa: E402

FULL = os.environ.get("SHEAF_PROVE") == "1"
RECORD = HERE.parents[1] / "results" / "promises" / "record.json"
_counts: list[dict[str, Any]] = []
_clock = Clock()


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Iterator[Promise]:
    """The promise named by ``@pytest.mark.promise(name, says, tried_by)``; the test fails when a trial broke it, or none was made."""
    mark = request.node.get_closest_marker("promise")
    assert mark is not None, "a test that asks for `promise` is marked with @pytest.mark.promise(name, says, tried_by)"
    found = Promise(*mark.args, full=FULL)
    yield found
    request.node.user_properties.append((PROPERTY, found.count()))
    if found.broken or not found.tried:
        shown = "\n  ".join(found.broken[:10])
        pytest.fail(f"{found.name}: {len(found.broken)} of {found.tried} trials broke the promise\n  {shown}", pytrace=False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _counts.extend(value for name, value in report.user_properties if name == PROPERTY)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The process that gathers all reports writes the record, after a full run of all promises only."""
    if not FULL or hasattr(session.config, "workerinput") or not _counts or session.config.getoption("keyword"):
        return
    write(RECORD, _counts, provenance(RECORD.parents[2], "promises", seed=0, settings={}, clock=_clock, external=[]))
