"""What is left of that part of an output which differs from sample to sample.

Most of a score of 3 ± 0.5 is its mean, and 11 dB of it may be no better than to answer 3 every time. That is told of an
output with one value, or one a class, for each sample, but for a final Softmax or Sigmoid: where it is sure of itself
for all the samples, it varies by next to nothing, and rightly so. Of a map the mean over samples says little: one
without anything on it is right to be the same everywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.variation import Variation

__all__ = ["Varied"]

Array = npt.NDArray[Any]

LEAST = 5  # samples: the spread of fewer says little
SAME = 1e-2  # of the energy, 10% of the size: averages of noise differ by less, and are the same for all they say


class Varied:
    """Adds up how far the samples of one output differ."""

    def __init__(self) -> None:
        self._found: Variation | None = Variation()
        self._width: int | None = None

    def add(self, values: Array, samples: int) -> None:
        """Add one feed's values; with more than one axis beside that of the samples, nothing is told."""
        own = values.shape[1:] if values.ndim and len(values) == samples else values.shape  # axes of one sample
        width = math.prod(own)
        fits = width * samples == values.size and width == max(own, default=1) and self._width in (None, width)
        if not fits or not np.isfinite(values).all():
            self._found = None
        if self._found is not None:
            self._width = width
            self._found.add(values.reshape(samples, width))

    def decibels(self, sqnr_db: float) -> float | None:
        """Return the SQNR of what varies; None where that is nothing, or cannot be told.

        Args:
            sqnr_db: That of the whole.
        """
        if self._found is None or self._found.samples < LEAST or not self._found.share > SAME:
            return None
        return sqnr_db + 10 * math.log10(self._found.share)
