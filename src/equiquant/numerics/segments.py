"""Shares of one long vector: what many short vectors have in common is computed for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Segments"]

Array = npt.NDArray[Any]


class Segments:
    """Consecutive shares of one long vector; none is empty.

    >>> Segments([2, 1]).sum(np.array([1.0, 2.0, 5.0])).tolist()
    [3.0, 5.0]
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    def sum(self, values: Array) -> Array:
        """Return the sum of each share."""
        return np.asarray(np.add.reduceat(values, self._starts))

    def max(self, values: Array) -> Array:
        """Return the largest of each share."""
        return np.asarray(np.maximum.reduceat(values, self._starts))

    def spread(self, values: Array) -> Array:
        """Return each share's value at all its places."""
        return np.repeat(values, self.sizes)

    def powers(self, exponent: Array) -> tuple[Array, Array]:
        """Return e^{exponent − shift} and the shift of each share that keeps it from overflowing."""
        shift = self.max(exponent)
        return np.exp(exponent - self.spread(shift)), shift
