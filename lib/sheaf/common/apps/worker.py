"""The server process: builds the seeded database, listens on loopback, ends when its parent does.

Run by ``sheaf.common.apps.server``, never by hand: ``python -m sheaf.common.apps.worker FOLDER``
"""

import importlib
import json
import os
import secrets
import select
import shutil
import sys
import threading
from pathlib import Path

from sheaf.common.apps.server import LIVE, SEED, SITES

__all__ = ["main"]

SEED_MODULES = {
    "hospital": "sheaf.common.apps.hospital.seed", "payables": "sheaf.common.apps.payables.seed",
    "support": "sheaf.common.apps.support.seed", "store": "sheaf.common.apps.store.seed",
}  # fmt: skip


def main(folder: Path) -> None:
    """Serves until standard input ends; prints one JSON line with port, cookie and health token once it listens."""
    from sheaf.common.apps.project import application, session_cookie, setup

    parent = os.getppid()
    for stale in (SEED, LIVE):
        (folder / stale).unlink(missing_ok=True)
    token = secrets.token_urlsafe(16)
    setup(folder / SEED, token)
    seed_all()
    cookie = session_cookie()
    shutil.copyfile(folder / SEED, folder / LIVE)

    from waitress import create_server

    server = create_server(application(folder / LIVE), host="127.0.0.1", port=0, threads=4, ident=None)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    print(json.dumps({"port": server.effective_port, "cookie": cookie, "token": token}), flush=True)
    server.run()


def seed_all() -> None:
    """Makes the tables and fills them; the same rows every time."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import transaction

    call_command("migrate", run_syncdb=True, verbosity=0, interactive=False)
    with transaction.atomic():
        clerk = User(id=1, username="clerk", first_name="Robin", is_staff=True, is_superuser=True)
        clerk.set_unusable_password()
        clerk.save()
        for site in SITES:
            importlib.import_module(SEED_MODULES[site]).seed()


def _end_with(parent: int) -> None:
    """Ends this process when its standard input does, or when it has been handed to another parent."""
    while True:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if (ready and not os.read(sys.stdin.fileno(), 4096)) or os.getppid() != parent:
            os._exit(0)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError):
            sys.exit(f"{error.name} is not installed; run: pip install 'sheaf[agents]'")
        sys.exit(f"{type(error).__name__}: {error}")
