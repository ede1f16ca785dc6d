"""What is left of an output beside what masks a part of it: the moves that are legal, those that are not at −10000.

All of such a mask is signal and little of it noise, and one step of 8 bits may be all that the other values differ by.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.masks import masked
from equiquant.numerics.statistics.sqnr import ErrorAccumulator

__all__ = ["Unmasked"]

Array = npt.NDArray[Any]

PART = 0.01  # of the values at least are masked, and two


class Unmasked:
    """Adds up signal and noise of the values of one output that no mask hides."""

    def __init__(self) -> None:
        self._sums: ErrorAccumulator | None = None

    def add(self, expected: Array, output: Array) -> None:
        """Add one feed's values; those of one without a mask do not count, nor do infinite ones."""
        finite = np.isfinite(expected)
        values = expected[finite].astype(np.float64)
        mask = masked(values, values.min(initial=0.0))
        if mask is None or np.count_nonzero(mask) < max(2, PART * values.size) or not values[~mask].any():
            return
        self._sums = self._sums or ErrorAccumulator()
        self._sums.add(expected[finite][~mask], output[finite][~mask])

    def decibels(self) -> float | None:
        """Return the SQNR of what is not masked; None where nothing is."""
        return None if self._sums is None else self._sums.figures().sqnr_db
