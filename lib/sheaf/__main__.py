"""``python -m sheaf``: the command line."""

import sys

if __name__ == "__main__":
    try:
        from sheaf.artifact.cli import main

        code = main()
    except KeyboardInterrupt:  # before a command was at work, or after it ended
        print("sheaf: stopped", file=sys.stderr)
        code = 130
    sys.exit(code)
