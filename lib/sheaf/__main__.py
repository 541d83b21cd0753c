"""``python -m sheaf``: the command line."""

import sys

from sheaf.artifact.cli import main

if __name__ == "__main__":
    sys.exit(main())
