"""Values that lie on a grid already, such as those of an 8-bit image: a scale that is its step loses nothing.

The step is the smallest difference between two distinct values of all arrays together: a few of them may show none yet
that the others lie on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.stride import coprime_stride

__all__ = ["Grid", "grid_of"]

Array = npt.NDArray[Any]

OFF = 0.05  # of a step that a value may lie beside the grid: far less than rounding to another grid would lose
MOST_SEEN = 1 << 16  # values of an array that the step is sought among; all of them have to lie on it


@dataclass(frozen=True)
class Grid:
    """A grid through 0.

    Attributes:
        step: Between two neighbours, real units.
        low: Steps from 0 to the smallest value seen.
        high: Steps from 0 to the largest.
    """

    step: float
    low: int
    high: int

    def range_of(self, levels: int) -> tuple[float, float]:
        """Return the ends of a range of so many steps whose grid has every value, the room left beyond on both sides.

        Where values are on one side of 0 only, so is the room: an image has no negative pixels. What few steps leave
        unused goes half beyond the values, for larger ones, and half between them, for a grid finer than was seen.

        >>> Grid(0.5, -100, 150).range_of(255), Grid(0.5, 0, 100).range_of(255), Grid(1.0, 0, 15).range_of(255)
        ((-51.0, 76.5), (0.0, 127.5), (0.0, 63.75))
        """
        finer = _finer(levels, self._span)
        low, high = min(self.low, 0) * finer, max(self.high, 0) * finer
        room = levels - (high - low)
        below = 0 if low == 0 else room if high == 0 else room // 2
        step = self.step / finer
        return step * (low - below), step * (high + room - below)

    def symmetric_range(self, levels: int) -> float:
        """Return the end of a range of so many steps on either side of 0 whose grid has every value."""
        return self.step / _finer(levels, max(-self.low, self.high)) * levels

    def fits(self, levels: int, *, symmetric: bool) -> bool:
        """True if a range of so many steps, on either side of 0 where symmetric, can have every value."""
        return (max(-self.low, self.high) if symmetric else self._span) <= levels

    @property
    def _span(self) -> int:
        return max(self.high, 0) - min(self.low, 0)


def _finer(levels: int, used: int) -> int:
    """Return the steps of the range in one of the grid: as many times as its values may grow."""
    return max(1, math.isqrt(levels // used))


def grid_of(arrays: Iterable[Array], most: int) -> Grid | None:
    """Return the grid through 0 that all values of all arrays lie on; None if there is none of at most `most` steps.

    Args:
        arrays: Real numbers, of any shapes; gone through twice.
        most: Steps between the smallest value and the largest, 0 included.
    """
    seen, grid = np.zeros(1), None
    low, high = 0.0, 0.0
    for array in arrays:
        values = array.reshape(-1)
        if not values.any():
            continue
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        if not np.isfinite(high - low):
            return None
        some = values[:: coprime_stride(-(-values.size // MOST_SEEN), values.size)]
        if grid is None or not _lies_on(some, grid):
            seen = np.unique(np.concatenate([seen, some.astype(np.float64)]))
            grid = _step(seen, most)
            if grid is None and seen.size > 1:
                return None
    if grid is None or not all(_lies_on(array.reshape(-1), grid) for array in arrays):
        return None
    found = Grid(grid, round(low / grid), round(high / grid))
    return found if found.fits(most, symmetric=False) else None


def _lies_on(values: Array, step: float) -> bool:
    scaled = values / np.asarray(step, values.dtype)
    return bool(np.abs(scaled - np.rint(scaled)).max(initial=0.0) <= OFF)


def _step(values: Array, most: int) -> float | None:
    """Return the step of the grid that distinct sorted values, 0 among them, lie on; None if it has too many steps."""
    span = float(values[-1] - values[0])
    gaps = np.diff(values)
    gaps = gaps[gaps > OFF * span / most]  # the same number in float32, come by in two ways, is no gap
    if not gaps.size or gaps.size > most:
        return None
    steps = round(span / float(gaps.min()))  # the smallest gap is known to a rounding error, the span far better
    return span / steps if steps <= most else None
