"""Replies on disk: one file a request, written whole before the reply is returned, shared by several processes."""

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sheaf.common.fm.errors import FMError
from sheaf.common.fm.request import Answer

__all__ = ["Cache"]

FORMAT = 1
POLL = 0.02  # seconds between two looks at a request that another process has under way


class Cache:
    """Answers by request key under ``folder``, which is made when the first one is stored.

    Plain files rather than a database: they survive ``kill -9`` and network file systems, and one that is damaged
    costs one answer. Neither prompts nor images are stored, only what was answered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        return self.folder / "replies" / key[:2] / f"{key}.json"

    def get(self, key: str) -> Answer | None:
        """The stored answer; None when there is none or it is damaged, as its checksum tells."""
        try:
            found = json.loads(self.path(key).read_bytes())
            if found["format"] != FORMAT or found["key"] != key or found["check"] != _check(found["answer"]):
                return None
            return Answer.from_json(found["answer"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Store an answer so that it is either whole on disk or absent; raises OSError when it cannot be written."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = answer.to_json()
        entry = {"format": FORMAT, "key": key, "stored": int(time.time()), "answer": content, "check": _check(content)}
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entry, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @contextmanager
    def claim(self, key: str, pause: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Hold a request against other processes while it is asked; the claim ends with the process, however it ends.

        Args:
            pause: called between two looks; what it raises ends the wait.

        Raises:
            FMError: the folder cannot be written, so an answer could not be stored either.
        """
        path = self.folder / "claims" / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            while (handle := _claimed(path)) is None:
                pause(POLL)
        except OSError as error:
            problem = f"the cache folder cannot be written ({error.strerror}), so nothing was asked; free it or name another"
            raise FMError(problem) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("replies/??/*.json"))


def _claimed(path: Path) -> int | None:
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The file that was locked may be one that its last holder has removed meanwhile.
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def _check(answer: Any) -> str:
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()
