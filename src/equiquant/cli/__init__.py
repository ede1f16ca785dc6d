"""The `equiquant` command: parse, call the API, show the result.

Nothing heavy is imported until a command runs, so `--help` answers at once. Exit codes: 0 done, 1 refused (one line on
standard error), 2 usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from equiquant.cli.parser import parse
from equiquant.errors import EquiQuantError

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Raises:
        SystemExit: 0 after `--help` and `--version`, 2 for a command line that makes no sense.
    """
    args = parse(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are in the report, which the command shows
            code: int = args.run(args)
            sys.stdout.flush()
            return code
    except EquiQuantError as error:
        return _refuse(str(error))
    except MemoryError:
        return _refuse("Not enough memory for this model; close other programs or use a larger machine.")
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _refuse(message: str) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 1
