"""The `equiquant` command: parse, call the API, show the result.

Nothing heavy is imported until a command runs, so `--help` answers at once. Exit codes: 0 done, 1 refused (one line on
standard error), 2 usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

from equiquant.cli import quantize
from equiquant.cli.parser import parse
from equiquant.errors import EquiQuantError
from equiquant.printable import printable

__all__ = ["main"]

INTERRUPTED = 128 + signal.SIGINT  # as shells report it
TERMINATED = 128 + signal.SIGTERM

_received: list[int] = []  # signals that end the command


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Raises:
        SystemExit: 0 after `--help` and `--version`, 2 for a command line that makes no sense.
    """
    args = parse(argv)
    if sys.stdout is None:  # closed before we began
        sys.stdout = io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")  # rather than fail on a × that the encoding of a pipe lacks
    try:
        with _signals(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are in the report, which the command shows
            code: int = args.run(args)
            sys.stdout.flush()
            return code
    except EquiQuantError as error:
        return _refuse(str(error))
    except MemoryError:
        return _refuse("Not enough memory for this model; close other programs or use a larger machine.")
    except KeyboardInterrupt:
        return _interrupted(args)
    except ImportError:  # what a module in C makes of a signal that comes while it is being imported
        if not _received:
            raise
        return _interrupted(args) if _received[0] == signal.SIGINT else TERMINATED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        _silence_output()
        return 0
    except OSError as error:  # standard output is on a full disk; every other file is refused by name
        if error.errno != errno.ENOSPC:
            raise
        _silence_output()
        return _refuse(f"Cannot write the output: {error.strerror}.")


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Leave at a signal as after an error, so that the terminal is as it was and no temporary file stays."""
    _received.clear()
    main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT) if main_thread}
    ours = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in ours:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)


def _interrupted(args: argparse.Namespace) -> int:
    kept = args.command == quantize.NAME and quantize.goes_on(args)
    print("interrupted" + ("; the same command goes on from there" if kept else ""), file=sys.stderr)
    return INTERRUPTED


def _silence_output() -> None:
    """Let nothing fail once more when Python flushes standard output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str) -> int:
    print("error:", printable(" ".join(message.split())), file=sys.stderr)
    return 1
