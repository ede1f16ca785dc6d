"""`python -m equiquant`: the command line."""

import sys

from equiquant.cli import main

if __name__ == "__main__":
    sys.exit(main())
