"""What this process writes, and where: an audit hook that names every file opened for writing outside of given folders."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_EVENTS = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "shutil.copyfile", "shutil.move"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_seen: list[str] | None = None


def _hook(event: str, args: tuple[object, ...]) -> None:
    if _seen is None:
        return
    if event == "open" and isinstance(args[2], int) and args[2] & _WRITING and isinstance(args[0], str | bytes):
        _seen.append(os.fsdecode(args[0]))
    elif event in _EVENTS:
        _seen.extend(os.fsdecode(a) for a in args if isinstance(a, str | bytes))


sys.addaudithook(_hook)


@contextlib.contextmanager
def writes(*allowed: Path) -> Iterator[list[str]]:
    """Files written outside of ``allowed`` and of scratch folders of ours, filled in when the block ends."""
    global _seen
    scratch = str(Path(tempfile.gettempdir()) / "sheaf-")
    kept, found = [str(p.resolve()) + os.sep for p in allowed], []
    before, _seen = _seen, []
    try:
        yield found
    finally:
        seen, _seen = _seen, before
        for name in seen or []:
            path = os.path.realpath(name)
            if not path.startswith((*kept, scratch, "/dev/", "/proc/")) and "__pycache__" not in path:
                found.append(path)
