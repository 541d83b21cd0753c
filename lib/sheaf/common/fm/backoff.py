"""How long to wait between attempts, how to end a wait, and what is counted meanwhile."""

import random
import threading
from dataclasses import dataclass

from sheaf.common.fm.errors import FMError

__all__ = ["Backoff", "Counters", "Interrupter"]


@dataclass(frozen=True)
class Backoff:
    """Seconds between attempts: ``first``, doubled each time up to ``longest``, less a random part of up to a half.

    An endpoint's Retry-After goes before, up to ``patience``; a longer one ends the request.
    """

    first: float = 0.5
    longest: float = 30.0
    patience: float = 120.0

    def wait(self, attempt: int, asked: float | None, rng: random.Random) -> float:
        """Seconds to wait after the ``attempt``-th failure (from 1), ``asked`` being what the endpoint asks for."""
        if asked is not None:
            return asked + self.first * rng.random()
        return min(self.longest, self.first * 2 ** (attempt - 1)) * rng.uniform(0.5, 1)


@dataclass(frozen=True)
class Counters:
    """What a client has done so far.

    Args:
        cached: answers from disk; ``shared``: from an equal request that was under way.
        sent: exchanges begun; ``answered``: those with a usable answer, stored and paid.
        parse_failures: answers that did not fit their schema, stored ones read again included.
        failed: exchanges given up.
    """

    cached: int = 0
    shared: int = 0
    sent: int = 0
    answered: int = 0
    retries: int = 0
    parse_failures: int = 0
    images_dropped: int = 0
    failed: int = 0


class Interrupter:
    """Waits that another thread can end."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def pause(self, seconds: float) -> None:
        """Wait; raises FMError when the wait is ended from elsewhere."""
        if self._stop.wait(seconds):
            raise FMError("interrupted while waiting to ask again")

    def set(self) -> None:
        self._stop.set()

    def clear(self) -> None:
        self._stop.clear()
