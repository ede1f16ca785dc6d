"""The exception family: every refusal a user can meet is one of these, with one clear line.

The command line prints the message of an `EquiQuantError` and exits with 1; anything else is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "EquiQuantError",
    "ModelError",
    "OptionError",
    "OutputError",
    "first_line",
    "nearest",
]


class EquiQuantError(Exception):
    """Base of every error EquiQuant raises on purpose."""


class ModelError(EquiQuantError):
    """The input model cannot be read or cannot be quantized: missing, truncated, not ONNX, NaN weights."""


class DataError(EquiQuantError):
    """The calibration data cannot be used: empty, wrong name, shape or dtype, NaN or infinite values."""


class OptionError(EquiQuantError, ValueError):
    """An option is unknown, out of range, or contradicts another one."""


class OutputError(EquiQuantError):
    """The result cannot be written: no such folder, no permission, or it would overwrite the input."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or the name of its class if it says nothing.

    It is without a full stop: more of a sentence may follow.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a hint naming the known names closest to `name`, or an empty string when none is close.

    >>> nearest("CLEStep", ["CLESteps", "Percentile"])
    " Did you mean 'CLESteps'?"
    """
    lowered = {k.lower(): k for k in known}
    close = difflib.get_close_matches(str(name).lower(), lowered, n=3, cutoff=0.5)
    if not close:
        return ""
    return " Did you mean " + " or ".join(f"'{lowered[c]}'" for c in close) + "?"
