"""``python -m sheaf``: the command line."""

import os
import sys

if __name__ == "__main__":
    if sys.getfilesystemencoding() != "utf-8":  # paths and text are UTF-8 here and in all that is started, whatever the locale
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "sheaf", *sys.argv[1:]])
    try:
        from sheaf.artifact.cli import main

        code = main()
    except KeyboardInterrupt:  # before a command was at work, or after it ended
        print("sheaf: stopped", file=sys.stderr)
        code = 130
    sys.exit(code)
