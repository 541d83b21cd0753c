"""Limits on what may be spent, and the ledger of what was: checked before sending, kept over runs and processes."""

import fcntl
import json
import math
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sheaf.common.fm.errors import BudgetError
from sheaf.common.fm.request import TOKEN_NAMES, Prepared, Usage

__all__ = ["Budget", "Ledger", "Spent"]


@dataclass(frozen=True)
class Budget:
    """Limits over all runs that share a ledger; None is no limit.

    Args:
        max_requests: requests that were, or may have been, answered; those refused with 429 or 5xx are free.
        max_tokens: input and output tokens together.
        max_usd: needs both prices, in dollars per million tokens.
        image_tokens: bound on the tokens of one image, for the estimate before sending.
        name: a ledger keeps a separate account for every name.

    Raises:
        ValueError: ``max_usd`` without prices, or a negative number.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    max_usd: float | None = None
    usd_per_million_input: float | None = None
    usd_per_million_output: float | None = None
    image_tokens: int = 2000
    name: str = "default"

    def __post_init__(self) -> None:
        if self.max_usd is not None and (self.usd_per_million_input is None or self.usd_per_million_output is None):
            raise ValueError("max_usd needs prices; give usd_per_million_input and usd_per_million_output as well")
        for title, value in vars(self).items():
            if isinstance(value, int | float) and not value >= 0:
                raise ValueError(f"{title} is {value}; it must be 0 or more")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, name: str = "default") -> "Budget":
        """Limits from ``SHEAF_FM_MAX_REQUESTS``, ``SHEAF_FM_MAX_TOKENS``, ``SHEAF_FM_MAX_USD`` and the prices
        ``SHEAF_FM_USD_PER_MILLION_INPUT`` and ``SHEAF_FM_USD_PER_MILLION_OUTPUT``.

        Raises:
            ValueError: one of them is not a number.
        """

        def number(variable: str) -> float | None:
            text = environ.get(variable, "").strip()
            try:
                return float(text) if text else None
            except ValueError:
                raise ValueError(f"{variable} is {text!r}; it must be a number, or unset") from None

        requests, tokens = number("SHEAF_FM_MAX_REQUESTS"), number("SHEAF_FM_MAX_TOKENS")
        return cls(
            max_requests=None if requests is None else int(requests),
            max_tokens=None if tokens is None else int(tokens),
            max_usd=number("SHEAF_FM_MAX_USD"),
            usd_per_million_input=number("SHEAF_FM_USD_PER_MILLION_INPUT"),
            usd_per_million_output=number("SHEAF_FM_USD_PER_MILLION_OUTPUT"),
            name=name,
        )

    def bound(self, prepared: Prepared) -> Usage:
        """Upper bound of what a request takes: a token for every byte of text, and the longest answer allowed."""
        output = next(prepared.body[name] for name in TOKEN_NAMES if name in prepared.body)
        return Usage(prepared.text_bytes() + self.image_tokens * prepared.image_count(), output, estimated=True)

    def cost(self, usage: Usage) -> "Spent":
        """What an answer with this usage costs; 0 dollars without prices."""
        dollars = usage.input_tokens * (self.usd_per_million_input or 0)
        dollars += usage.output_tokens * (self.usd_per_million_output or 0)
        return Spent(1, usage.input_tokens + usage.output_tokens, dollars / 1e6)


@dataclass(frozen=True)
class Spent:
    """An amount: requests, tokens, US dollars."""

    requests: int = 0
    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.requests + other.requests, self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.requests - other.requests, self.tokens - other.tokens, self.usd - other.usd)


class Ledger:
    """Account of what was spent: a file of JSON lines to which every process appends, or memory only.

    A request is entered at its estimate before it is sent and corrected when its fate is known. What a killed process
    had under way stays at its estimate, since it may have been paid; a line cut short is ignored, which errs on the
    same side.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._totals: dict[str, Spent] = {}
        self._open: dict[str, tuple[str, Spent]] = {}  # reserved and not settled, by anyone
        self._mine: set[str] = set()
        self._offset = 0
        self._torn = False

    def reserve(self, budget: Budget, wanted: Spent) -> str:
        """Enter a request at its estimate; returns the id to settle it by.

        Waits while only this process's own requests under way stand between the request and the limit, as they mostly
        cost less than their estimate.

        Raises:
            BudgetError: it does not fit.
        """
        with self._changed:
            while True:
                with self._file() as file:
                    total = self._totals.get(budget.name, Spent())
                    problem = _over(budget, total, wanted)
                    if problem is None:
                        entry = uuid.uuid4().hex
                        self._mine.add(entry)
                        self._write(file, entry, budget.name, "reserved", wanted)
                        return entry
                    under_way = [self._open[i] for i in self._mine if i in self._open]
                    mine = sum((amount for name, amount in under_way if name == budget.name), Spent())
                if not under_way or _over(budget, total - mine, wanted) is not None:
                    raise BudgetError(f"{problem}; raise the limit, or ask for less")
                self._changed.wait(1.0)

    def settle(self, entry: str, budget: Budget, outcome: str, amount: Spent) -> None:
        """Replace the estimate of a request by what it cost; ``outcome`` says how it ended."""
        with self._changed:
            with self._file() as file:
                self._write(file, entry, budget.name, outcome, amount)
            self._mine.discard(entry)
            self._changed.notify_all()

    def spent(self, name: str = "default") -> Spent:
        """Total of one account, requests under way at their estimate."""
        with self._changed, self._file():
            return self._totals.get(name, Spent())

    @contextmanager
    def _file(self) -> Iterator[IO[bytes] | None]:
        """The file, locked against other processes and read to its end."""
        if self.path is None:
            yield None
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.seek(0, os.SEEK_END) < self._offset:  # removed to begin again
                self._offset, self._totals, self._open = 0, {}, {}
            file.seek(self._offset)
            *lines, rest = file.read().split(b"\n")
            for line in lines:
                self._apply(line)
                self._offset += len(line) + 1
            self._torn = bool(rest)
            yield file

    def _write(self, file: IO[bytes] | None, entry: str, name: str, outcome: str, amount: Spent) -> None:
        line = json.dumps({"id": entry, "name": name, "outcome": outcome, **vars(amount)}).encode()
        if file is None:
            self._apply(line)
            return
        file.write((b"\n" if self._torn else b"") + line + b"\n")
        file.flush()
        self._apply(line)
        self._offset = file.tell()

    def _apply(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            entry, name, outcome = found["id"], found["name"], found["outcome"]
            amount = Spent(int(found["requests"]), int(found["tokens"]), float(found["usd"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return
        if not all(isinstance(text, str) for text in (entry, name, outcome)) or not math.isfinite(amount.usd):
            return
        before = self._open.pop(entry, ("", Spent()))[1]
        self._totals[name] = self._totals.get(name, Spent()) - before + amount
        if outcome == "reserved":
            self._open[entry] = (name, amount)


def _over(budget: Budget, total: Spent, wanted: Spent) -> str | None:
    for title, limit, spent, more in (
        ("requests", budget.max_requests, total.requests, wanted.requests),
        ("tokens", budget.max_tokens, total.tokens, wanted.tokens),
        ("US dollars", budget.max_usd, total.usd, wanted.usd),
    ):
        if limit is not None and spent + more > limit * (1 + 1e-12):
            return (
                f"the budget {budget.name!r} of {limit:g} {title} would be exceeded: {spent:g} spent or under way, "
                f"up to {more:g} for this request"
            )
    return None
