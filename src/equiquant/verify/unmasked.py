"""What is left of an output beside what masks a part of it: the moves that are legal, those that are not at −10000.

All of such a mask is signal and little of it noise, and one step of 8 bits may be all that the other values differ by.
A mask is known by its numbers: some are negative, the same, and far from all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.sqnr import ErrorAccumulator

__all__ = ["Unmasked"]

Array = npt.NDArray[Any]

FAR = 64.0  # times the size of what it leaves
SAME = 0.01  # of its size, what it is added to
PART = 0.01  # of the values at least are masked, and two


class Unmasked:
    """Adds up signal and noise of the values of one output that no mask hides."""

    def __init__(self) -> None:
        self._sums: ErrorAccumulator | None = None

    def add(self, expected: Array, output: Array) -> None:
        """Add one feed's values; those of one without a mask do not count, nor do infinite ones."""
        finite = np.isfinite(expected)
        values = expected[finite].astype(np.float64)
        least = values.min(initial=0.0)
        mask = values < (1 - SAME) * least
        rest = np.abs(values[~mask])
        if (
            np.count_nonzero(mask) < max(2, PART * values.size)
            or rest.max(initial=0.0) * FAR > -least
            or not rest.any()
        ):
            return
        self._sums = self._sums or ErrorAccumulator()
        self._sums.add(expected[finite][~mask], output[finite][~mask])

    def decibels(self) -> float | None:
        """Return the SQNR of what is not masked; None where nothing is."""
        return None if self._sums is None else self._sums.figures().sqnr_db
