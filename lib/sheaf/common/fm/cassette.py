"""Recorded replies for tests: what one run asked, another is answered from, without a network or a key."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sheaf.common.fm.errors import CassetteError
from sheaf.common.fm.request import Answer, Prepared

__all__ = ["Cassette"]


class Cassette:
    """Replies by request in a file of JSON lines; the endpoint is not part of the identity, the model is.

    Args:
        path: the file.
        record: ask the endpoint and add to the file what it does not hold; otherwise only replay.

    Raises:
        CassetteError: replaying a file that is missing or cannot be read.
    """

    def __init__(self, path: Path, record: bool = False) -> None:
        self.path = Path(path)
        self.record = record
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {}
        if not self.path.is_file():
            if not record:
                raise CassetteError(f"no cassette {self.path.name}; record it with Cassette(path, record=True)")
            return
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                entry = json.loads(line)
                Answer.from_json(entry["answer"])
                self._entries[entry["fingerprint"]] = entry
            except (ValueError, KeyError, TypeError):
                raise CassetteError(f"{self.path.name}, line {number} is not a recorded reply; record it again") from None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, prepared: Prepared) -> Answer | None:
        """The recorded answer, or None."""
        entry = self._entries.get(prepared.fingerprint)
        return None if entry is None else Answer.from_json(entry["answer"])

    def add(self, prepared: Prepared, answer: Answer, redact: Callable[[Any], Any] = lambda value: value) -> None:
        """Append an answer with a short description of its request, both redacted."""
        with self._lock:
            if prepared.fingerprint in self._entries:
                return
            about = redact(_describe(prepared))
            entry = {"fingerprint": prepared.fingerprint, "request": about, "answer": redact(answer.to_json())}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._entries[prepared.fingerprint] = entry

    def missing(self, prepared: Prepared) -> CassetteError:
        """The error that names a request which is not here, and how it differs from the nearest one that is."""
        asked = _describe(prepared)
        near = [e["request"] for e in self._entries.values() if e["request"].get("text") == asked["text"]]
        differs = ""
        if near:
            fields = sorted(k for k in asked if asked[k] != near[-1].get(k))
            differs = f"; one with this text is there, but differs in {', '.join(fields) or 'the rest of its text'}"
        return CassetteError(
            f"{self.path.name} holds {len(self)} replies, none to {asked['text']!r} (model {asked['model']}, "
            f"fingerprint {prepared.fingerprint[:12]}){differs}; record it with Cassette(path, record=True)"
        )


def _describe(prepared: Prepared) -> dict[str, Any]:
    about = {k: v for k, v in prepared.body.items() if k not in ("messages", "response_format")}
    about["schema"] = prepared.body.get("response_format", {}).get("json_schema", {}).get("name")
    roles = {m["role"]: m["content"] for m in reversed(prepared.body["messages"])}
    system = str(roles.get("system", ""))
    about["system"] = system if len(system) <= 80 else system[:79] + "…"
    about["turns"] = len(prepared.body["messages"])
    return about | {"text": prepared.title(), "images": prepared.image_count(), "sample": prepared.sample}
