"""Plain data for strict JSON: no NaN, no infinity, no numpy, nothing another parser would refuse.

NaN becomes null; an infinity becomes the string `"Infinity"` or `"-Infinity"`, which `float()` reads back. RFC 8259,
section 6, allows neither as a number.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from equiquant.io.places import replacing

__all__ = ["dumps", "plain", "write_atomically"]


def plain(value: Any) -> Any:
    """Return `value` as dicts with string keys, lists, strings, bools, finite numbers and None.

    Dataclasses become dicts, tuples and sets lists, numpy arrays lists, paths strings.

    Raises:
        TypeError: A kind of value JSON has no room for.

    >>> plain({"sqnr_db": float("inf"), "shape": (1, 3)})
    {'sqnr_db': 'Infinity', 'shape': [1, 3]}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=str)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    raise TypeError(f"a report cannot hold a {type(value).__name__}")


def dumps(value: Any, *, ascii_only: bool = False) -> str:
    """Return strict JSON, indented, keys in the order given."""
    return json.dumps(plain(value), indent=2, ensure_ascii=ascii_only, allow_nan=False) + "\n"


def write_atomically(path: Path, text: str) -> Path:
    """Write a UTF-8 text file whole or not at all.

    Raises:
        OutputError: The file cannot be written, or is no regular file; nothing is left behind.
    """
    with replacing(path) as place:  # a path that is no UTF-8 may be named in it
        place.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path
