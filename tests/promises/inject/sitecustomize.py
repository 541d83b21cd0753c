"""Python loads this in every process of a run under test: it counts file operations, and does something at the n-th.

``faults.injected`` sets the variables. An operation is what changes the tree below FAULT_ROOT. Opening a file for writing
counts twice: before it, and after it, when the file is there and empty.
"""

import errno
import os
import shutil
import signal
import sys
import threading
import time

KIND = os.environ.get("FAULT_KIND", "")  # copy, kill-run, kill-self, or the name of an error
AT = int(os.environ.get("FAULT_AT", "0"))  # the operation it happens at, from 1; an error then stays
LOG = os.environ.get("FAULT_LOG", "")
ROOT = os.environ.get("FAULT_ROOT", "")
STATE = (".sheaf", ".snakemake", "results")  # what a run writes
NEED_ROOM = {"open", "os.mkdir", "os.link", "os.symlink"}  # what a full disk refuses
LAST_IS_FOLDER = {"os.mkdir", "os.remove", "os.rmdir"}  # their last argument may be the folder that a name is relative to
CHANGES = NEED_ROOM | LAST_IS_FOLDER | {"os.rename", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_here = threading.local()


def _path(event, args):
    if isinstance(args[0], int) or args[0] is None:
        return None
    path, folder = os.fsdecode(args[0]), args[-1] if event in LAST_IS_FOLDER else -1
    if isinstance(folder, int) and folder >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.abspath(path)


def _append(path, text):
    """Where the text ended, which differs for processes that write at the same time."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(fd, text)
        return os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(fd)


def _of_this_run():
    mark = f"FAULT_LOG={LOG}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        yield int(name)
            except OSError:
                continue


def _kill():
    if KIND == "kill-run":
        for _ in range(2):  # the second time what was being started during the first
            for pid in _of_this_run():
                os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _copy(number, opened=None):
    """The tree as it is now, or as it would be with one more file opened."""
    target = f"{LOG}.d/{number:05d}"
    os.makedirs(target)
    for name in STATE:
        try:
            shutil.copytree(os.path.join(ROOT, name), os.path.join(target, name), symlinks=True)
        except (OSError, shutil.Error):  # not there yet, or a file went away meanwhile
            continue
    if opened:
        os.makedirs(os.path.dirname(os.path.join(target, opened)), exist_ok=True)
        with open(os.path.join(target, opened), "wb"):
            pass


def _count(what):
    number = _append(LOG, b".")
    _append(LOG + ".txt", f"{number} {' '.join(sys.orig_argv[1:3])}: {what}\n".encode())
    return number


def _operation(event, args, inside):
    number = _count(f"{event} {inside}")
    if KIND == "copy":
        _copy(number)
    elif number >= AT and hasattr(errno, KIND) and event in NEED_ROOM:
        code = getattr(errno, KIND)
        raise OSError(code, os.strerror(code), args[0])
    elif number == AT and KIND in ("kill-run", "kill-self"):
        _kill()
    if event != "open":
        return
    number = _count(f"opened {inside}")
    empties = bool(args[2] & (os.O_TRUNC | os.O_EXCL)) or not os.path.exists(os.path.join(ROOT, inside))
    if KIND == "copy" and empties:
        _copy(number, inside)
    elif number == AT and KIND in ("kill-run", "kill-self"):
        os.close(os.open(args[0], args[2], 0o600))
        _kill()


def _hook(event, args):
    if event not in CHANGES or getattr(_here, "busy", False) or (event == "open" and not args[2] & WRITING):
        return
    _here.busy = True
    try:
        path = _path(event, args)
        if path is None or not path.startswith(ROOT + os.sep) or "__pycache__" in path:
            return
        if event != "open" or not os.path.isdir(path):  # tempfile names the folder first, then opens the file in it
            _operation(event, args, path[len(ROOT) + 1 :])
    finally:
        _here.busy = False


def _set_back(seconds):
    """A clock that is ``seconds`` ahead while a process starts and is set right two seconds later."""
    real, begun = time.time, time.monotonic()
    time.time = lambda: real() + (seconds if time.monotonic() - begun < 2 else 0.0)


if ROOT and LOG and KIND:
    sys.addaudithook(_hook)
if os.environ.get("FAULT_CLOCK"):
    _set_back(float(os.environ["FAULT_CLOCK"]))
