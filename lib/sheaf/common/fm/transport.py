"""One HTTP exchange with an OpenAI-compatible endpoint, through the ``openai`` package, and what its outcome means."""

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from sheaf.common.fm.request import Answer, Usage

__all__ = ["DEFAULT_URL", "Failure", "Redactor", "Transport", "clean_key", "endpoint_of"]

DEFAULT_URL = "https://api.openai.com/v1"
REDACTED = "<redacted>"
SHORTEST_KEY = 8  # shorter ones ("EMPTY", "none") are placeholders for endpoints that ask for none
MOST_TOKENS = 10**9  # of one request: an endpoint that claims more would empty the budget with a single answer
RETRIED = {408, 409, 425, 429}
_KEY_FORM = re.compile(r"\bsk-[A-Za-z0-9_*-]{6,}")  # endpoints quote keys in part


@dataclass(frozen=True)
class Failure:
    """An exchange without a usable answer.

    Args:
        status: HTTP status; 0 when there was none.
        retry: whether another attempt can help.
        wait: seconds the endpoint asks to wait; None when it does not say.
        charged: it may have been charged: the endpoint took the request and its answer was lost.
    """

    reason: str
    status: int = 0
    retry: bool = True
    wait: float | None = None
    charged: bool = False


class Redactor:
    """Takes a key out of text and of JSON values; never shows it itself."""

    def __init__(self, key: str | None) -> None:
        self._key = key if key and len(key) >= SHORTEST_KEY else None

    def text(self, text: str) -> str:
        return text.replace(self._key, REDACTED) if self._key else text

    def message(self, text: str) -> str:
        """For errors and logs: also what has the form of a key, on one line and not too long."""
        return _KEY_FORM.sub(REDACTED, self.text(" ".join(text.split())))[:300]

    def value(self, value: Any) -> Any:
        """A copy of a JSON value with every string redacted."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(child) for child in value]
        return {self.text(k): self.value(v) for k, v in value.items()} if isinstance(value, dict) else value

    def __repr__(self) -> str:
        return "Redactor()"


def endpoint_of(base_url: str) -> str:
    """Host, port and path of a base URL, as it stands in cache keys and messages.

    Raises:
        ValueError: not an http(s) URL, or one with credentials or a query, which would end up in logs.
    """
    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the base URL holds credentials or a query; give scheme, host and path, and OPENAI_API_KEY apart")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the base URL is {base_url!r}; it must be like {DEFAULT_URL}")
    return parts.netloc.lower() + parts.path.rstrip("/")


def clean_key(key: str | None) -> str | None:
    """The key without blanks around it, None when there is nothing else.

    Raises:
        ValueError: it holds a character that no key and no HTTP header holds; the key is not shown.
    """
    key = (key or "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("the API key holds a blank, a control character or a letter outside ASCII; copy it again")
    return key or None


class Transport:
    """Sends bodies to one endpoint; may be used from any thread.

    The exchanges run in an event loop of a thread of their own, where a deadline ends even an answer that trickles.

    Args:
        timeout: seconds of silence after which an exchange fails.
        deadline: seconds an exchange may take in all.
    """

    def __init__(self, base_url: str, key: str | None, timeout: float, deadline: float, connections: int) -> None:
        import openai

        for name in ("httpcore", "httpcore2"):  # their debug lines quote headers, in which an endpoint may return the key
            logger = logging.getLogger(name)
            logger.setLevel(max(logger.level, logging.INFO))
        self._openai = openai
        self._redact = Redactor(key)
        self._timeout, self._deadline = timeout, deadline
        host = urlsplit(base_url).hostname or ""
        # Redirects are not followed: they would carry prompts to a host nobody named. A proxy does not see loopback.
        http = openai.DefaultAsyncHttpxClient(
            timeout=timeout, follow_redirects=False, trust_env=host not in ("127.0.0.1", "localhost", "::1")
        )
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key or "none", max_retries=0, timeout=timeout, http_client=http
        )
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(connections)
        self._thread = threading.Thread(target=self._loop.run_forever, name="sheaf-fm", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return "Transport()"

    def send(self, body: Mapping[str, Any], bound: Usage) -> Answer | Failure:
        """One exchange, never repeated here; ``bound`` stands in for a usage the endpoint does not report."""
        return asyncio.run_coroutine_threadsafe(self._send(body, bound), self._loop).result()

    def close(self) -> None:
        """End the connections and the thread."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()

    async def _send(self, body: Mapping[str, Any], bound: Usage) -> Answer | Failure:
        openai = self._openai
        async with self._slots:
            try:
                async with asyncio.timeout(self._deadline):
                    raw = await self._client.chat.completions.with_raw_response.create(**body)
                content = raw.http_response.content
            except TimeoutError:
                return Failure(f"no whole answer within {self._deadline:g} s", charged=True)
            except openai.APITimeoutError as error:
                unsent = type(error.__cause__).__name__ in ("ConnectTimeout", "PoolTimeout")
                return Failure(f"no sign of life for {self._timeout:g} s", charged=not unsent)
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                unsent = type(cause).__name__ in ("ConnectError", "UnsupportedProtocol", "LocalProtocolError")
                reason = self._redact.message(f"the connection broke ({type(cause).__name__}: {cause})")
                return Failure(reason, charged=not unsent)
            except openai.APIStatusError as error:
                return self._refusal(error.status_code, error.response.text, error.response.headers)
        return self._read(content, bound)

    def _read(self, content: bytes, bound: Usage) -> Answer | Failure:
        try:
            found = self._redact.value(json.loads(content))
        except (ValueError, RecursionError):
            return Failure("the answer is not JSON, or cut short", charged=True)
        if isinstance(found, dict) and isinstance(error := found.get("error"), dict) and not found.get("choices"):
            code = error.get("code")  # some gateways wrap a refusal into a 200
            status = code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else 502
            return self._refusal(status, json.dumps(found), {})
        try:
            choice = found["choices"][0]
            message = choice["message"]
            text = message.get("content") or message.get("refusal") or ""
            if isinstance(text, list):
                text = "".join(part.get("text", "") for part in text)
            if not isinstance(text, str):
                raise TypeError("content is not text")
            model, finish = str(found.get("model", "")), str(choice.get("finish_reason") or "")
        except (KeyError, IndexError, TypeError, AttributeError):
            return Failure("the answer is JSON but not a chat completion", charged=True)
        return Answer(text, finish, model, _usage(found.get("usage"), bound))

    def _refusal(self, status: int, text: str, headers: Mapping[str, str]) -> Failure:
        said, code = text, None
        try:
            error = json.loads(text)["error"]
            said = error["message"] if isinstance(error, dict) else error
            code = error.get("code") if isinstance(error, dict) else None
        except (ValueError, KeyError, TypeError):
            pass
        reason = f"HTTP {status}"
        if 300 <= status < 400:
            reason += ", a redirect, which is not followed; set OPENAI_BASE_URL to the address it leads to"
        elif isinstance(said, str) and said.strip():
            reason += f": {self._redact.message(said)}"
        retry = (status in RETRIED or status >= 500) and code != "insufficient_quota"
        return Failure(reason, status, retry, _retry_after(headers))


def _usage(found: Any, bound: Usage) -> Usage:
    """The tokens an endpoint says it took; the upper bound where it says nothing that can be, such as a negative number."""
    try:
        used = Usage(int(found["prompt_tokens"]), int(found["completion_tokens"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        used = Usage(-1, -1)
    if 0 <= used.input_tokens <= MOST_TOKENS and 0 <= used.output_tokens <= MOST_TOKENS:
        return used
    return Usage(bound.input_tokens, bound.output_tokens, estimated=True)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from ``retry-after-ms`` or ``Retry-After``, which is a number or a date; None when absent or nonsense."""
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        text = headers.get(name)
        if not text:
            continue
        try:
            wait = float(text) / scale
        except ValueError:
            try:
                wait = parsedate_to_datetime(text).timestamp() - time.time()
            except ValueError:
                continue
        if wait == wait:
            return max(wait, 0.0)
    return None
