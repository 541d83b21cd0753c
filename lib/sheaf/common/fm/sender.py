"""One request to the endpoint: within the budget, stored when it arrives, repeated only where that can help."""

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from sheaf.common.fm.backoff import Backoff, Interrupter
from sheaf.common.fm.budget import Budget, Ledger, Spent
from sheaf.common.fm.errors import EndpointError, UnansweredError
from sheaf.common.fm.request import Answer, Prepared, Usage
from sheaf.common.fm.transport import Failure, Redactor, Transport

__all__ = ["Sender"]

log = logging.getLogger(__name__)


class Sender:
    """Attempts of one client; what one attempt learns of the endpoint's wishes holds for all.

    Args:
        connect: opens the transport, at the first attempt.
        store: keeps an answer; called before the attempt is settled in the ledger.
        count: adds one to a counter.
    """

    def __init__(
        self,
        connect: Callable[[], Transport],
        endpoint: str,
        budget: Budget,
        ledger: Ledger,
        max_retries: int,
        backoff: Backoff,
        store: Callable[[Prepared, Answer], None],
        count: Callable[[str], None],
        interrupter: Interrupter,
        redact: Redactor,
    ) -> None:
        self._connect, self._endpoint = connect, endpoint
        self._budget, self._ledger = budget, ledger
        self._max_retries, self._backoff = max_retries, backoff
        self._store, self._count = store, count
        self._interrupter, self._redact = interrupter, redact
        self._lock = threading.Lock()
        self._transport: tuple[int, Transport] | None = None
        self._resume_at = 0.0  # monotonic time before which the endpoint wants to be left alone

    def send(self, prepared: Prepared) -> Answer:
        """The answer, stored.

        Raises:
            BudgetError: an attempt could exceed a limit.
            EndpointError: refused for good.
            UnansweredError: no usable answer in all attempts.
        """
        rng = random.Random(prepared.key)
        bound, body = self._budget.bound(prepared), prepared.wire()
        title = repr(self._redact.message(prepared.title(60)))
        attempt = 0
        while True:
            attempt += 1
            while (left := self._resume_at - time.monotonic()) > 0:
                self._interrupter.pause(left)
            result = self._exchange(prepared, body, bound)
            if isinstance(result, Answer):
                return result
            if problem := self._problem(result, attempt, title):
                self._count("failed")
                raise problem
            if result.wait is not None:  # said to one, meant for all
                self._resume_at = max(self._resume_at, time.monotonic() + result.wait)
            wait = self._backoff.wait(attempt, result.wait, rng)
            self._count("retries")
            log.info("attempt %d at %s failed (%s); next in %.1f s", attempt, self._endpoint, result.reason, wait)
            self._interrupter.pause(wait)

    def close(self) -> None:
        """End the connections; the next attempt opens new ones."""
        with self._lock:
            held, self._transport = self._transport, None
        if held and held[0] == os.getpid():
            held[1].close()

    def _problem(self, failure: Failure, attempt: int, title: str) -> EndpointError | UnansweredError | None:
        """Why there is no further attempt; None when there is one."""
        if not failure.retry:
            return EndpointError(f"{self._endpoint} refused {title}: {failure.reason}", failure.status)
        if failure.wait is not None and failure.wait > self._backoff.patience:
            return UnansweredError(
                f"{self._endpoint} asks to wait {failure.wait:.0f} s, longer than the {self._backoff.patience:g} s allowed "
                f"({failure.reason}); what was answered is stored, so call this again then",
                attempt,
            )
        if attempt > self._max_retries:
            return UnansweredError(
                f"{self._endpoint} did not answer {title} in {attempt} attempts, the last: {failure.reason}; what was "
                "answered is stored, so call this again",
                attempt,
            )
        return None

    def _exchange(self, prepared: Prepared, body: Mapping[str, Any], bound: Usage) -> Answer | Failure:
        """One attempt, entered in the ledger before and after; an answer is kept when this returns."""
        estimate = self._budget.cost(bound)
        entry = self._ledger.reserve(self._budget, estimate)
        outcome, amount = "lost", estimate
        try:
            self._count("sent")
            result = self._connected().send(body, bound)
            if isinstance(result, Answer):
                self._store(prepared, result)
                self._count("answered")
                outcome, amount = "answered", self._budget.cost(result.usage)
            elif not result.charged:
                outcome, amount = "refused", Spent()
            return result
        finally:
            self._ledger.settle(entry, self._budget, outcome, amount)

    def _connected(self) -> Transport:
        with self._lock:
            if self._transport is None or self._transport[0] != os.getpid():  # its thread does not survive a fork
                self._transport = (os.getpid(), self._connect())
            return self._transport[1]
