"""What is asked and what comes back: requests with text and images, their identity, and replies."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sheaf.common.fm.errors import RequestError

__all__ = ["TOKEN_NAMES", "Answer", "Prepared", "Reply", "Request", "Usage", "prepare"]

LARGEST_IMAGE = 20_000_000  # bytes; what the common endpoints accept at most
MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
TOKEN_NAMES = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Request:
    """One question to a model.

    Args:
        parts: the user's message in order: ``str`` is text, ``Path`` an image file, ``bytes`` an image (PNG or JPEG).
        schema: pydantic model the reply must fit; sent as a strict JSON schema.
        model: overrides the client's.
        temperature, seed: None leaves them to the endpoint.
        sample: number of this draw; equal requests with different numbers are asked and kept apart.
    """

    system: str
    parts: Sequence[str | Path | bytes]
    schema: type[BaseModel] | None = None
    model: str | None = None
    max_tokens: int = 4096
    temperature: float | None = 0.0
    seed: int | None = None
    sample: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.parts, str | bytes | Path):
            raise RequestError(f"parts is one {type(self.parts).__name__}; give a list of texts and images")
        object.__setattr__(self, "parts", tuple(self.parts))
        if wrong := [type(p).__name__ for p in self.parts if not isinstance(p, str | bytes | Path)]:
            raise RequestError(f"parts holds {wrong[0]}; text is a str, an image a Path or bytes")
        if not self.parts:
            raise RequestError("parts is empty; give at least one text or image")
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens is {self.max_tokens}; it must be 1 or more")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise RequestError(f"temperature is {self.temperature}; accepted are 0 to 2, or None")


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer; ``estimated`` when the endpoint did not say and the upper bound stands in."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False

    def __add__(self, other: "Usage") -> "Usage":
        tokens = self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens
        return Usage(*tokens, self.estimated or other.estimated)


@dataclass(frozen=True)
class Answer:
    """What an endpoint answered, as it is stored."""

    text: str
    finish_reason: str
    model: str
    usage: Usage

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Answer":
        """Read what `to_json` wrote; raises KeyError or TypeError when it is something else."""
        usage = Usage(**found["usage"])
        answer = cls(text=found["text"], finish_reason=found["finish_reason"], model=found["model"], usage=usage)
        if not all(isinstance(value, str) for value in (answer.text, answer.finish_reason, answer.model)):
            raise TypeError("an answer's text, finish_reason and model are strings")
        return answer


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Args:
        parsed: instance of the request's schema; None without a schema.
        usage: tokens of every answer that this reply took, a second one after a misfit included.
        cached: nothing was paid for it now: from the cache, a cassette, or an equal request that was under way.
        images_dropped: images over the client's cap, which were not sent.
        reasked: a first answer did not fit the schema.
    """

    text: str
    parsed: Any
    usage: Usage
    cached: bool
    model: str
    finish_reason: str
    images_dropped: int = 0
    reasked: bool = False
    key: str = ""


@dataclass(frozen=True)
class Prepared:
    """A request ready to be looked up or sent: its body with images by digest, and the images beside it."""

    body: dict[str, Any]
    images: dict[str, bytes] = field(repr=False)
    fingerprint: str
    key: str
    images_dropped: int
    sample: int
    endpoint: str

    def wire(self) -> dict[str, Any]:
        """The body as it is sent: every image as a data URL."""
        return _fill(self.body, {name: _data_url(data) for name, data in self.images.items()})

    def image_count(self) -> int:
        return sum(part["type"] == "image_url" for m in self.body["messages"] for part in _content(m))

    def text_bytes(self) -> int:
        """UTF-8 bytes of all text and of the schema: no byte-level tokenizer makes more tokens of them."""
        texts = [part.get("text", "") for m in self.body["messages"] for part in _content(m)]
        schema = json.dumps(self.body.get("response_format", ""))
        return sum(len(text.encode("utf-8", "replace")) for text in [*texts, schema]) + 16 * len(self.body["messages"])

    def title(self, length: int = 80) -> str:
        """Beginning of the user's text, for messages."""
        user = next(m for m in self.body["messages"] if m["role"] == "user")
        text = " ".join(part["text"] for part in _content(user) if part["type"] == "text")
        text = " ".join(text.split())
        return text if len(text) <= length else text[: length - 1] + "…"

    def asked_again(self, answer: str, problem: str) -> "Prepared":
        """The same conversation continued: the answer that did not fit, and what was wrong with it."""
        told = f"That does not fit the schema: {problem}. Reply again, with nothing but JSON that fits it."
        turns = [{"role": "assistant", "content": answer or "(empty)"}, {"role": "user", "content": told}]
        body = self.body | {"messages": [*self.body["messages"], *turns]}
        return _identified(body, self.images, self.endpoint, self.sample, self.images_dropped)


def prepare(
    request: Request, model: str, endpoint: str, max_images: int | None = None, tokens_name: str = "max_tokens"
) -> Prepared:
    """Read the images and settle the body and its identity.

    Args:
        endpoint: host, port and path of the base URL; part of the cache key, not of the fingerprint.
        max_images: only the first so many are sent (paper, input settings: 16 for GeminiPro, 20 for Claude3).
        tokens_name: what this endpoint calls the limit on the answer's tokens.

    Raises:
        RequestError: an image is missing, unreadable, too large, or neither PNG nor JPEG.
    """
    content: list[dict[str, Any]] = []
    images: dict[str, bytes] = {}
    sent = dropped = 0
    for part in request.parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        elif max_images is not None and sent >= max_images:
            dropped += 1
        else:
            data = _image(part)
            name = "sha256:" + hashlib.sha256(data).hexdigest()
            images[name] = data
            content.append({"type": "image_url", "image_url": {"url": name}})
            sent += 1
    messages: list[dict[str, Any]] = [{"role": "system", "content": request.system}] if request.system else []
    plain = all(part["type"] == "text" for part in content)
    # One plain string is understood by every compatible endpoint, lists of parts only by those that see images.
    messages.append({"role": "user", "content": "\n".join(p["text"] for p in content) if plain else content})
    body: dict[str, Any] = {"model": model, "messages": messages, tokens_name: request.max_tokens}
    if request.temperature is not None:
        body["temperature"] = float(request.temperature)
    if request.seed is not None:
        body["seed"] = request.seed
    if request.schema is not None:
        body["response_format"] = _response_format(request.schema)
    return _identified(body, images, endpoint, request.sample, dropped)


def _identified(
    body: dict[str, Any], images: dict[str, bytes], endpoint: str, sample: int, images_dropped: int
) -> Prepared:
    text = json.dumps({"body": body, "sample": sample}, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    key = hashlib.sha256(f"{endpoint}\n{fingerprint}".encode()).hexdigest()
    return Prepared(body, images, fingerprint, key, images_dropped, sample, endpoint)


@lru_cache(maxsize=256)
def _response_format(schema: type[BaseModel]) -> dict[str, Any]:
    import openai

    strict = openai.pydantic_function_tool(schema)["function"]["parameters"]
    return {"type": "json_schema", "json_schema": {"name": schema.__name__, "strict": True, "schema": strict}}


def _image(part: Path | bytes) -> bytes:
    name = f"image {part.name}" if isinstance(part, Path) else "an image given as bytes"
    try:
        data = part.read_bytes() if isinstance(part, Path) else part
    except OSError as error:
        raise RequestError(f"{name} cannot be read ({error.strerror}); give the path of a PNG or JPEG file") from None
    if not any(data.startswith(magic) for magic in MAGIC):
        raise RequestError(f"{name} is neither PNG nor JPEG; convert it first")
    if len(data) > LARGEST_IMAGE:
        raise RequestError(f"{name} has {len(data)} bytes, more than {LARGEST_IMAGE}; scale it down first")
    return data


def _data_url(data: bytes) -> str:
    kind = next(kind for magic, kind in MAGIC.items() if data.startswith(magic))
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _content(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _fill(body: dict[str, Any], urls: Mapping[str, str]) -> dict[str, Any]:
    def part(found: dict[str, Any]) -> dict[str, Any]:
        return found if found["type"] == "text" else {"type": "image_url", "image_url": {"url": urls[found["image_url"]["url"]]}}

    def message(found: dict[str, Any]) -> dict[str, Any]:
        return found if isinstance(found["content"], str) else found | {"content": [part(p) for p in found["content"]]}

    return body | {"messages": [message(m) for m in body["messages"]]}
