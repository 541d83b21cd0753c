"""``python -m sheaf``: the command line."""

import os
import signal
import sys
from importlib import util


def _when_used(package: str, name: str) -> None:
    """Read ``package.name`` when something of it is used: reading scipy.stats takes half of a command that needs none of it."""
    found = util.find_spec(f"{package}.{name}")
    if found is None or found.loader is None:
        return
    found.loader = util.LazyLoader(found.loader)
    module = util.module_from_spec(found)
    sys.modules[found.name] = module
    setattr(sys.modules[package], name, module)  # or `from package import name` would look closer, and read it
    found.loader.exec_module(module)


if __name__ == "__main__":
    if sys.getfilesystemencoding() != "utf-8":  # paths and text are UTF-8 here and in all that is started, whatever the locale
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "sheaf", *sys.argv[1:]])
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the Makefile holds it back until here
        # jsonschema compiles a grammar of addresses when this package is there: two seconds for a check that nothing needs
        sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
        _when_used("scipy", "stats")
        from sheaf.artifact.cli import main

        code = main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was asked is done, and Python says much when stopped while it ends
    except KeyboardInterrupt:  # before a command was at work, or after it ended
        print("sheaf: stopped", file=sys.stderr)
        code = 130
    sys.exit(code)
