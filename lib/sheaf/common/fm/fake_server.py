"""A stand-in endpoint on loopback: no model, it answers chat completions by a given function, or misbehaves as told.

It shows what the client does (caching, retries, budgets) without a key and without a model; its answers mean nothing.
"""

import hashlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

__all__ = ["FakeServer", "Fault", "body_id", "last_text"]

Kind = Literal["status", "stall", "truncate", "malformed", "reset", "slow", "raw"]


@dataclass(frozen=True)
class Fault:
    """One way to misbehave.

    Args:
        kind: ``status`` refuses with ``status`` and ``headers``; ``stall`` says nothing for ``seconds`` and hangs up;
            ``truncate`` promises the whole body and hangs up half-way; ``malformed`` sends half the JSON as if it were
            whole; ``reset`` resets the connection; ``slow`` sends ``text`` in pieces over ``seconds``; ``raw`` sends
            ``text`` as the body.
    """

    kind: Kind
    status: int = 500
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    text: str = "{}"


def last_text(body: Mapping[str, Any]) -> str:
    """Text of the last message of a request's body."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


def body_id(body: Mapping[str, Any]) -> str:
    """Identity of a request's body: equal for equal requests."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class FakeServer:
    """Serves ``POST /v1/chat/completions`` within a ``with`` block.

    Args:
        answer: the body of a request in; the text of the answer, or a `Fault`, out. Called from many threads.
        latency: seconds an answer takes.
        key: when given, requests without it are refused with 401.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], str | Fault], latency: float = 0.0, key: str | None = None
    ) -> None:
        self._answer, self._latency, self._key = answer, latency, key
        self._lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []  # of every request, in order of arrival
        self.answered: Counter[str] = Counter()  # whole answers sent, by `body_id`
        self.open = self.most_open = 0  # requests at a time
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "FakeServer":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.bodies.append(body)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            if self._key is not None and handler.headers.get("Authorization") != f"Bearer {self._key}":
                _send(handler, 401, json.dumps({"error": {"message": "Incorrect API key provided"}}))
                return
            answer = self._answer(body)
            time.sleep(self._latency)
            whole = answer if isinstance(answer, str) else answer.text if answer.kind == "slow" else None
            if whole is None:
                _misbehave(handler, answer if isinstance(answer, Fault) else Fault("status"), body)
                return
            text = json.dumps(_completion(body, whole))
            if isinstance(answer, Fault):
                _send_slowly(handler, text, answer.seconds)
            else:
                _send(handler, 200, text)
            with self._lock:
                self.answered[body_id(body)] += 1
        except OSError:
            handler.close_connection = True  # the client has gone; that is its right
        finally:
            with self._lock:
                self.open -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    disable_nagle_algorithm = True
    block_on_close = False


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path != "/v1/chat/completions":
                _send(self, 404, json.dumps({"error": {"message": f"no such path: {self.path}"}}))
                return
            fake._serve(self, json.loads(content))

        def log_message(self, format: str, *args: Any) -> None:
            pass  # the client's own log is the one to read

    return Handler


def _completion(body: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A chat completion in the form of the OpenAI API; four bytes of text count as a token."""
    sent = sum(len(json.dumps(m["content"])) for m in body["messages"])
    usage = {"prompt_tokens": sent // 4 + 1, "completion_tokens": len(text) // 4 + 1}
    usage["total_tokens"] = sum(usage.values())
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    made = {"id": "fake", "object": "chat.completion", "created": 0, "model": f"{body['model']} (stand-in)"}
    return made | {"choices": [choice], "usage": usage}


def _send(handler: BaseHTTPRequestHandler, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
    data = text.encode()
    handler.send_response(status)
    for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def _send_slowly(handler: BaseHTTPRequestHandler, text: str, seconds: float, pieces: int = 20) -> None:
    data = text.encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    step = -(-len(data) // pieces)
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        time.sleep(seconds / pieces)
    handler.wfile.write(b"0\r\n\r\n")


def _misbehave(handler: BaseHTTPRequestHandler, fault: Fault, body: Mapping[str, Any]) -> None:
    whole = json.dumps(_completion(body, "never whole"))
    if fault.kind == "status":
        _send(handler, fault.status, json.dumps({"error": {"message": fault.text}}), fault.headers)
    elif fault.kind == "raw":
        _send(handler, 200, fault.text)
    elif fault.kind == "malformed":
        _send(handler, 200, whole[: len(whole) // 2])
    elif fault.kind == "stall":
        time.sleep(fault.seconds)
        handler.close_connection = True
    elif fault.kind == "truncate":
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole[: len(whole) // 2].encode())
        handler.close_connection = True
    else:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True
