"""The `equiquant` command: parse, call the API, show the result.

Nothing heavy is imported until a command runs, so `--help` answers at once. Exit codes: 0 done, 1 refused (one line on
standard error), 2 usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import NoReturn

from equiquant.cli.parser import parse
from equiquant.errors import EquiQuantError

__all__ = ["main"]

INTERRUPTED = 128 + signal.SIGINT  # as shells report it
TERMINATED = 128 + signal.SIGTERM


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Raises:
        SystemExit: 0 after `--help` and `--version`, 2 for a command line that makes no sense.
    """
    args = parse(argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
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
        goes_on = getattr(args, "stats", None) or getattr(args, "auto", False)
        print("interrupted" + ("; the same command goes on from there" if goes_on else ""), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        _silence_output()
        return 0
    except OSError as error:  # standard output is on a full disk; every other file is refused by name
        if error.errno != errno.ENOSPC:
            raise
        _silence_output()
        return _refuse(f"Cannot write the output: {error.strerror}.")


def _terminate(*_: object) -> NoReturn:
    """Leave as after an error, so that the terminal is as it was and no temporary file stays."""
    raise SystemExit(TERMINATED)


def _silence_output() -> None:
    """Let nothing fail once more when Python flushes standard output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 1
