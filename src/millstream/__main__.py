"""`python -m millstream`: the same as `millstream`."""

import sys

from millstream.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
