"""The client: an answer from the cache, from an equal request under way, or paid and stored; checked against a schema."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from sheaf.common.data import cache_dir
from sheaf.common.fm.backoff import Backoff, Counters, Interrupter
from sheaf.common.fm.budget import Budget, Ledger, Spent
from sheaf.common.fm.cache import Cache
from sheaf.common.fm.cassette import Cassette
from sheaf.common.fm.errors import FMError, NotConfigured, SchemaError
from sheaf.common.fm.request import TOKEN_NAMES, Answer, Prepared, Reply, Request, Usage, prepare
from sheaf.common.fm.schema import fit
from sheaf.common.fm.sender import Sender
from sheaf.common.fm.transport import DEFAULT_URL, Redactor, Transport, clean_key, endpoint_of

__all__ = ["Client", "available"]

log = logging.getLogger(__name__)
TO_CONFIGURE = (
    "set SHEAF_FM_MODEL to a model's name, and OPENAI_API_KEY, or OPENAI_BASE_URL for an endpoint that needs no key"
)


class Client:
    """Asks one endpoint; may be used from any thread.

    Args:
        model: the default model.
        base_url: of an OpenAI-compatible endpoint; None is OpenAI's own.
        api_key: may be None with a base URL, for endpoints that ask for none.
        cache: folder for answers and ledger; None keeps both in memory.
        budget: limits; None has none.
        concurrency: exchanges at a time.
        timeout: seconds of silence that end an exchange; ``deadline``, default ten times that, ends it in any case.
        max_retries: further attempts after 408, 409, 425, 429, 5xx, timeouts, broken connections and damaged bodies.
        max_images: only the first so many images of a request are sent (paper: 16 for GeminiPro, 20 for Claude3).
        reasks: how often an answer that does not fit its schema is sent back.
        tokens_name: "max_tokens", or "max_completion_tokens" where an endpoint wants that.
        cassette: answers are replayed from it, or recorded to it.

    Raises:
        ValueError: an argument is out of range, or the URL or key cannot be one.
    """

    def __init__(
        self,
        model: str | None,
        base_url: str | None = None,
        api_key: str | None = None,
        cache: Path | None = None,
        budget: Budget | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        max_retries: int = 5,
        *,
        deadline: float | None = None,
        backoff: Backoff | None = None,
        max_images: int | None = None,
        reasks: int = 1,
        tokens_name: str = "max_tokens",
        cassette: Cassette | None = None,
    ) -> None:
        counts = {"max_retries": max_retries, "reasks": reasks, "max_images": max_images, "concurrency": concurrency - 1}
        for name, value in counts.items():
            if value is not None and value < 0:
                least = int(name == "concurrency")
                raise ValueError(f"{name} is {value + least}; it must be {least} or more")
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout}; it must be more than 0 seconds")
        if tokens_name not in TOKEN_NAMES:
            raise ValueError(f"tokens_name is {tokens_name!r}; accepted are {' and '.join(TOKEN_NAMES)}")
        key = clean_key(api_key)
        self.model = model
        self.endpoint = endpoint_of(base_url or DEFAULT_URL)
        self.cache = Cache(cache) if cache is not None else None
        self.budget = budget or Budget()
        self.ledger = Ledger(Path(cache) / "ledger.jsonl" if cache is not None else None)
        self.cassette = cassette
        self.concurrency, self.reasks = concurrency, reasks
        self.max_images, self.tokens_name = max_images, tokens_name
        self._redact = Redactor(key)
        self._reachable = bool(key or base_url)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._memory: dict[str, Answer] = {}
        self._flying: dict[str, Future[Answer]] = {}
        self._interrupter = Interrupter()
        whole = deadline or 10 * timeout
        # The key lives in this closure and in the HTTP client, not in an attribute that a dump would show.
        self._sender = Sender(
            lambda: Transport(base_url or DEFAULT_URL, key, timeout, whole, concurrency),
            self.endpoint, self.budget, self.ledger, max_retries, backoff or Backoff(), self._store, self._count,
            self._interrupter, self._redact,
        )  # fmt: skip

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **options: Any) -> "Client":
        """A client from ``OPENAI_API_KEY``, ``OPENAI_BASE_URL`` and ``SHEAF_FM_MODEL``; ``options`` go before.

        Without them it can still return what is in the cache. The cache is the project's own, the limits are those of
        `Budget.from_environment`.
        """
        found = {
            "model": environ.get("SHEAF_FM_MODEL", "").strip() or None,
            "base_url": environ.get("OPENAI_BASE_URL", "").strip() or None,
            "api_key": environ.get("OPENAI_API_KEY", "").strip() or None,
        } | options
        found["cache"] = found["cache"] if "cache" in found else cache_dir("fm")
        found["budget"] = found["budget"] if "budget" in found else Budget.from_environment(environ)
        return cls(**found)

    def __repr__(self) -> str:
        return f"Client(model={self.model!r}, endpoint={self.endpoint!r}, available={self.available()})"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; the client can be used again."""
        self._sender.close()

    def available(self) -> bool:
        """Whether requests can be answered: a model and an endpoint are named, or a cassette replays."""
        replays = self.cassette is not None and not self.cassette.record
        return bool(self.model) and (self._reachable or replays)

    @property
    def counters(self) -> Counters:
        with self._lock:
            return Counters(**{f.name: self._counts[f.name] for f in fields(Counters)})

    def spent(self) -> Spent:
        """What this client's account in the ledger holds, over all runs; requests under way at their estimate."""
        return self.ledger.spent(self.budget.name)

    def ask(self, request: Request) -> Reply:
        """The reply to one request, from the cache or paid and stored.

        Raises:
            FMError: the subclass says why there is no reply.
        """
        model = request.model or self.model
        if not model:
            raise NotConfigured(f"no model is named; {TO_CONFIGURE}")
        turn = prepare(request, model, self.endpoint, self.max_images, self.tokens_name)
        key, dropped = turn.key, turn.images_dropped
        self._count("images_dropped", dropped)
        used, all_cached = Usage(0, 0), True
        for attempt in range(1 + self.reasks):
            answer, cached = self._answer(turn)
            all_cached &= cached
            used = used + answer.usage
            parsed, problem = fit(request.schema, answer.text)
            if problem is None:
                return Reply(
                    answer.text, parsed, used, all_cached, answer.model, answer.finish_reason, dropped, attempt > 0, key
                )
            self._count("parse_failures")
            if answer.finish_reason == "length":  # asked again it would be cut short again
                problem = f"it was cut short at {self.tokens_name}={request.max_tokens}; allow more"
                break
            turn = turn.asked_again(answer.text, problem)
        schema, problem = cast(type, request.schema).__name__, self._redact.message(problem or "")
        raise SchemaError(f"the answer to {self._title(turn)} does not fit {schema}: {problem}", answer.text)

    def map(
        self, requests: Iterable[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[Reply | FMError]:
        """Replies in the order of the requests, each one's error in its place; others go on when one fails.

        On an interrupt no further request is sent, and what is under way is stored before the interrupt is passed on.

        Args:
            progress: called with the numbers of requests done and of all, in the calling thread.
        """
        asked = list(requests)
        results: list[Reply | FMError | None] = [None] * len(asked)
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="sheaf-fm-map")
        try:
            places = {pool.submit(self._outcome, request): place for place, request in enumerate(asked)}
            for done, future in enumerate(as_completed(places), 1):
                results[places[future]] = future.result()
                if progress is not None:
                    progress(done, len(asked))
        except BaseException:
            self._interrupter.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._interrupter.clear()
        return cast("list[Reply | FMError]", results)

    def _outcome(self, request: Request) -> Reply | FMError:
        try:
            return self.ask(request)
        except FMError as error:
            return error

    def _answer(self, prepared: Prepared) -> tuple[Answer, bool]:
        """The answer, and whether it cost nothing."""
        if self.cassette is not None and not self.cassette.record:
            if (found := self.cassette.get(prepared)) is None:
                raise self.cassette.missing(prepared)
            return found, True
        if (found := self._look(prepared.key)) is not None:
            self._count("cached")
            self._record(prepared, found)
            return found, True
        with self._lock:
            first = prepared.key not in self._flying
            flight = self._flying.setdefault(prepared.key, Future())
        if not first:
            self._count("shared")
            return flight.result(), True
        try:
            with self.cache.claim(prepared.key, self._interrupter.pause) if self.cache is not None else nullcontext():
                # Another thread or process may have stored it since the first look.
                found = self._look(prepared.key)
                answer = found if found is not None else self._pay(prepared)
            self._record(prepared, answer)
        except BaseException as error:
            flight.set_exception(error)
            raise
        else:
            flight.set_result(answer)
        finally:
            with self._lock:
                del self._flying[prepared.key]
        if found is not None:
            self._count("cached")
        return answer, found is not None

    def _pay(self, prepared: Prepared) -> Answer:
        if not self._reachable:
            raise NotConfigured(f"no endpoint is configured and {self._title(prepared)} is not stored; {TO_CONFIGURE}")
        return self._sender.send(prepared)

    def _look(self, key: str) -> Answer | None:
        return self._memory.get(key) or (self.cache.get(key) if self.cache is not None else None)

    def _store(self, prepared: Prepared, answer: Answer) -> None:
        if self.cache is not None:
            try:
                return self.cache.put(prepared.key, answer)
            except OSError as error:
                log.warning("a paid answer is kept in memory only, the cache cannot be written (%s)", error.strerror)
        self._memory[prepared.key] = answer
        return None

    def _record(self, prepared: Prepared, answer: Answer) -> None:
        if self.cassette is not None:
            self.cassette.add(prepared, answer, self._redact.value)

    def _title(self, prepared: Prepared) -> str:
        return repr(self._redact.message(prepared.title(60)))

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by


def available(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a model and an endpoint or a key, as `Client.from_environment` reads them."""
    named = {name for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SHEAF_FM_MODEL") if environ.get(name, "").strip()}
    return "SHEAF_FM_MODEL" in named and len(named) > 1
