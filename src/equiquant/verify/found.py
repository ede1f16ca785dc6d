"""What is left of the few values above 0 of an output: the logits of a detector, nearly all of them far below.

What it finds is 2 where everything else is −20: 25 dB of the whole may be left, and 8 of what is found. That is told
where at least 95% of the values are below 0 and some are above; behind a Softmax, a Sigmoid or a Relu none is below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.sqnr import ErrorAccumulator

__all__ = ["Found"]

Array = npt.NDArray[Any]

FEW = 0.05  # of the values
LEAST = 5  # values: of fewer no figure is worth anything


class Found:
    """Adds up signal and noise of the values of one output that are above 0."""

    def __init__(self) -> None:
        self._above, self._below, self._count = 0, 0, 0
        self._sums = ErrorAccumulator()

    def add(self, expected: Array, output: Array) -> None:
        """Add one feed's values."""
        above = expected > 0
        self._count += expected.size
        self._above += int(np.count_nonzero(above))
        self._below += int(np.count_nonzero(expected < 0))
        self._sums.add(expected[above], output[above])

    def decibels(self) -> float | None:
        """Return the SQNR of what is above 0; None where that is no small part beside values below 0."""
        if self._above < LEAST or self._below < (1 - FEW) * self._count:
            return None
        return self._sums.figures().sqnr_db
