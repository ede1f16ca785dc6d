"""The smallest and the largest value of every stretch of an array, each block read from memory once for both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CACHED", "extremes"]

Array = npt.NDArray[Any]

CACHED = 1 << 17  # elements, half a megabyte of float32: what the second-level cache of one core holds with ease


def extremes(flat: Array, length: int) -> tuple[Array, Array]:
    """Return the smallest and the largest value of each stretch; NaN where there is one.

    Args:
        flat: (n,) values, n > 0.
        length: Elements of a stretch; the last one may be shorter.

    >>> extremes(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 2)
    (array([1., 2., 4.]), array([3., 5., 4.]))
    """
    count = -(-flat.size // length)
    lows, highs = np.empty(count, flat.dtype), np.empty(count, flat.dtype)
    together = max(1, CACHED // length)
    starts = np.arange(0, together * length, length)
    for first in range(0, count, together):
        block = flat[first * length : (first + together) * length]
        some = slice(first, first + together)
        begins = starts[: count - first]
        np.minimum.reduceat(block, begins, out=lows[some])
        np.maximum.reduceat(block, begins, out=highs[some])
    return lows, highs
