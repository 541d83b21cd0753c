"""Malformed input: values and bytes that no file of ours should hold, and ways to put them into one that was sound."""

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["BYTES", "VALUES", "mutated", "places", "toml"]

DEEP = 3000
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "huge": 10**400,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "empty text": "",
    "a text": "x",
    "a path": "../../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "NUL": "a\0b",
    "half a character": "\ud800",
    "a long text": "y" * 100_000,
    "markup": "<script>alert(1)</script>",
    "template": "{{ 7*7 }}",
    "empty list": [],
    "a list": [1, "a", None],
    "nested lists": [[[[[[1]]]]]],
    "empty object": {},
    "an object": {"a": {"b": [1]}},
    "colour codes": "\x1b[31mred\x1b[0m",
    "line breaks": "a\nb\r\nc",
    "not Latin": "日本語 ✓ é",
}
BYTES: dict[str, bytes] = {
    "empty": b"",
    "blanks": b" \n\t\n",
    "NUL": b"\0" * 64,
    "binary": bytes(range(256)),
    "not UTF-8": b"\xff\xfe\x00a",
    "only a mark": b"\xef\xbb\xbf",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a number": b"7",
    "a text": b'"text"',
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "digits": b"9" * 10_000,
    "HTML": b"<html>404</html>",
    "a pickle": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\0" * 40,
    "a zip": b"PK\x03\x04" + b"\0" * 60,
}


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, as the keys that lead to it."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*at, key)
        yield from places(child, (*at, key))


def mutated(node: Any, at: tuple[Any, ...], value: Any, drop: bool = False) -> Any:
    """A copy with another value at one place, or without it."""
    copy = json.loads(json.dumps(node))
    holder = copy
    for key in at[:-1]:
        holder = holder[key]
    if drop:
        del holder[at[-1]]
    else:
        holder[at[-1]] = value
    return copy


def toml(node: dict[str, Any]) -> str:
    """A table of tables as TOML: plain values first, then tables and lists of tables under dotted heads."""
    lines: list[str] = []

    def write(table: dict[str, Any], head: str) -> None:
        inner = {k: v for k, v in table.items() if head.count(".") < 3 and _is_table(v)}
        lines.extend(f"{_key(k)} = {_value(v)}" for k, v in table.items() if k not in inner)
        for key, value in inner.items():
            name = f"{head}{_key(key)}"
            for one in value if isinstance(value, list) else [value]:
                lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
                write(one, f"{name}.")

    write(node, "")
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)
    )


def _key(key: object) -> str:
    text = str(key)
    return text if text.replace("_", "").replace("-", "").isalnum() and text.isascii() else _value(text)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if value is None:
        return "null"  # which TOML does not have
    return {True: "true", False: "false"}.get(value, repr(value)) if isinstance(value, bool) else repr(value)
