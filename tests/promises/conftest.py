"""Promises: tests that count. `make prove` runs them whole and writes results/promises/record.json."""

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "artifact")]  # ledger, and the toy project of the foundation's tests
from ledger import PROPERTY, Promise, write  # noqa: E402
from toy_fixtures import reproduced, reproduced_once, toy  # noqa: E402

from sheaf.artifact.provenance import Clock, provenance  # noqa: E402

__all__ = ["reproduced", "reproduced_once", "toy"]
FULL = os.environ.get("SHEAF_PROVE") == "1"
RECORD = HERE.parents[1] / "results" / "promises" / "record.json"
_counts: list[dict[str, Any]] = []
_clock = Clock()


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Iterator[Promise]:
    """The promise that the mark names; the test fails when a trial broke it, or none was made."""
    mark = request.node.get_closest_marker("promise")
    assert mark is not None, "a test that asks for `promise` is marked with @pytest.mark.promise(name, says, tried_by)"
    found = Promise(*mark.args, full=FULL)
    yield found
    request.node.user_properties.append((PROPERTY, found.count()))
    if found.broken or not found.tried:
        shown = "\n  ".join(found.broken[:10])
        pytest.fail(f"{found.name}: {len(found.broken)} of {found.tried} trials broke the promise\n  {shown}", pytrace=False)


def _whole(text: str) -> str:
    """Text that can be sent to another process: half characters, which malformed files hold, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.sections = [(_whole(name), _whole(text)) for name, text in report.sections]
    if isinstance(report.longrepr, str):
        report.longrepr = _whole(report.longrepr)
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _counts.extend(value for name, value in report.user_properties if name == PROPERTY)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The process that gathers all reports writes the record, after a full run of all promises only."""
    config = session.config
    whole = [Path(word).resolve() for word in config.args] == [HERE] and not config.getoption("keyword")
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if not (FULL and whole and ended and _counts) or hasattr(config, "workerinput"):
        return
    write(RECORD, _counts, provenance(RECORD.parents[2], "promises", seed=0, settings={}, clock=_clock, external=[]))
