"""Text and notebooks in, the same without machine paths and secrets out; and the search for what was left behind."""

import base64
import html
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

__all__ = [
    "SECRET_NAME", "find_leaks", "notebook_leaks", "scrub_notebook", "scrub_text", "secret_settings", "secret_values",
]  # fmt: skip

REDACTED = "<redacted>"
SHORTEST_SECRET = 8  # shorter values ("1", "true", "none") stand in ordinary text

SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(?:^|_)(?:PASS|PAT|AUTH|COOKIE)$", re.IGNORECASE
)
SHORTEST_LINE = 16  # of a secret of several lines, as a private key is, that is a secret by itself
# Credentials that are recognised by their own form, whatever the variable that holds them is called.
_SECRET_FORMS = re.compile(
    r"\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{40,}|\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b"
    r"|(?<=://)[^\s/:@'\"<>]+:[^\s/@'\"<>]+(?=@)"
)
# A path may follow a colour code or an escaped line break, both of which end in a letter; what follows a placeholder
# is the rest of a path that was replaced already.
_DONE = "".join(rf"(?<!{name})" for name in ("<project>", "<venv>", "<python>", "<tmp>"))
_START = rf"(\x1b\[[0-9;]*m|\\[nrt]|(?<![\w.~-]){_DONE})"
_END = r"(?![\w-])"
_HOMES = re.compile(_START + r"(?:/home/|/Users/)[\w.-]+" + _END)


def secret_values(environ: Mapping[str, str] | None = None) -> list[str]:
    """What of the environment is secret, in every spelling in which it may come out again; the longest first.

    That is the value of each variable whose name speaks of a key, token, secret or password, and of any other variable
    the password and the secret parameters of an address.
    """
    return list(_secrets(frozenset((os.environ if environ is None else environ).items())))


@lru_cache(maxsize=8)
def _secrets(environ: frozenset[tuple[str, str]]) -> tuple[str, ...]:
    found: set[str] = set()
    for name, value in environ:
        if SECRET_NAME.search(name):
            found.add(value.strip())
            found |= {line.strip() for line in value.splitlines() if len(line.strip()) >= SHORTEST_LINE}
        elif "://" in value:
            found |= _address_secrets(value)
    spelt = {form for value in found if len(value) >= SHORTEST_SECRET for form in _spellings(value)}
    return tuple(sorted(spelt, key=len, reverse=True))


def _address_secrets(address: str) -> set[str]:
    try:
        parts = urlsplit(address)
        password = parts.password or ""
        asked = {v for k, v in parse_qsl(parts.query) if SECRET_NAME.search(k)}
    except ValueError:  # no address after all
        return set()
    return {password, unquote(password), *asked}


def _spellings(value: str) -> set[str]:
    """A secret as it stands, and as JSON, Python's repr, HTML, addresses and base64 write it."""
    written = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    written |= {html.escape(form, quote=marks) for form in written for marks in (True, False)}
    written |= {quote(value), quote(value, safe=""), quote_plus(value)}
    encoded = value.encode("utf-8", "surrogateescape")
    return written | {encode(encoded).decode().rstrip("=") for encode in (base64.b64encode, base64.urlsafe_b64encode)}


def secret_settings(settings: Any, inside: str = "") -> list[str]:
    """Settings that are named like a secret and hold a text, dotted; they would go into every record."""
    if not isinstance(settings, dict):
        return []
    found = []
    for name, value in settings.items():
        if isinstance(value, str) and len(value) >= SHORTEST_SECRET and SECRET_NAME.search(str(name)):
            found.append(f"{inside}{name}")
        found += secret_settings(value, f"{inside}{name}.")
    return found


@lru_cache(maxsize=8)
def _rules(root: Path) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Patterns of the paths of this machine with what stands for each, the most specific first."""
    home = Path.home()
    places: dict[str, str] = {}
    for folder in (root, root.resolve()):
        places[str(folder)] = "<project>"
        if folder.is_relative_to(home) and folder != home:  # IPython shortens the home folder in tracebacks
            places[f"~/{folder.relative_to(home)}"] = "<project>"
    places.setdefault(sys.prefix, "<venv>")
    places.setdefault(str(Path(os.__file__).parent), "<python>")
    places.setdefault(str(home), "~")
    places = {path: name for path, name in places.items() if path not in ("/", "/usr", "/usr/local", "")}
    rules = [(re.compile(_START + re.escape(p) + _END), places[p]) for p in sorted(places, key=len, reverse=True)]
    cell = re.compile(_START + re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py")
    temporary = {tempfile.gettempdir(), "/tmp", "/var/tmp"}
    tmp = re.compile(_START + "(?:" + "|".join(map(re.escape, sorted(temporary, key=len, reverse=True))) + r")/[\w.+-]+")
    return (*rules, (cell, "<cell>"), (tmp, "<tmp>"), (_HOMES, "~"))


def scrub_text(text: str, root: Path) -> str:
    """``text`` with the project's folder as ``<project>``, the environment's as ``<venv>``, the standard library's as
    ``<python>``, temporary ones as ``<tmp>``, home as ``~``, and every known secret as ``<redacted>``."""
    for value in secret_values():
        text = text.replace(value, REDACTED)
    text = _SECRET_FORMS.sub(REDACTED, text)
    for pattern, name in _rules(Path(root)):
        text = pattern.sub(rf"\g<1>{name}", text)
    return text


def scrub_notebook(nb: Any, root: Path) -> Any:
    """A copy of a notebook (as nbformat or plain JSON holds it) with every string scrubbed: sources, outputs, metadata.

    Pictures in base64 are left as they are.
    """
    return _scrub(deepcopy(nb), Path(root))


def _scrub(node: Any, root: Path) -> Any:
    if isinstance(node, str):
        return scrub_text(node, root)
    if isinstance(node, list):
        if node and all(isinstance(line, str) and line.endswith("\n") for line in node[:-1]) and isinstance(node[-1], str):
            return scrub_text("".join(node), root).splitlines(keepends=True)  # a secret may span lines
        return [_scrub(child, root) for child in node]
    if isinstance(node, dict):
        for key, child in list(node.items()):
            if isinstance(key, str) and (clean := scrub_text(key, root)) != key:
                del node[key]
                key = clean
            node[key] = child if _is_binary(key) else _scrub(child, root)
    return node


def _is_binary(mime: Any) -> bool:
    return isinstance(mime, str) and mime.startswith(("image/", "audio/", "video/")) and mime != "image/svg+xml"


def find_leaks(text: str, root: Path) -> list[str]:
    """What of ``text`` scrubbing would replace, named so that it can be printed: paths as they are, secrets by kind."""
    leaks = ["a secret: the value of an environment variable"] * any(value in text for value in secret_values())
    if _SECRET_FORMS.search(text):
        leaks.append("a secret: text in the form of a credential")
    for pattern, name in _rules(Path(root)):
        if found := pattern.search(text):
            leaks.append(f"a machine path: {found[0].removeprefix(found[1])}")
            text = pattern.sub(rf"\g<1>{name}", text)  # or the folder above it is named too
    return leaks


def notebook_leaks(nb: Any, root: Path) -> list[str]:
    """`find_leaks` over every string of a notebook, pictures in base64 left out: chance letters there spell paths."""
    return find_leaks("\n".join(_strings(nb)), root)


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list) and node and all(isinstance(line, str) for line in node):
        yield "".join(node)
    elif isinstance(node, list):
        for child in node:
            yield from _strings(child)
    elif isinstance(node, dict):
        for key, child in node.items():
            yield str(key)
            if not _is_binary(key):
                yield from _strings(child)
