"""What is left of the median sample of an output, where a few loud ones are most of what is measured.

Signal and noise are summed over samples: of a detector that is a hundred times as sure of the black bars beside a photo
as of anything in it, 20 dB may be left in all and 6 of a photo without bars. That is told where samples are as loud as
`numerics.loudness` says, but for a final Softmax or Sigmoid, which is nearly 0 wherever it finds nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.loudness import Loudness, by_sample, sample_powers
from equiquant.numerics.statistics.sqnr import ErrorAccumulator

__all__ = ["MedianSample"]

Array = npt.NDArray[Any]


class MedianSample:
    """Collects signal and noise of the samples of one output."""

    def __init__(self) -> None:
        self._powers: list[Array] = []
        self._left: list[float] = []  # SQNR of each sample that has a signal, dB

    def add(self, expected: Array, output: Array, samples: int) -> None:
        """Add one feed's values; a masked logit of −∞ is neither signal nor noise."""
        self._powers.append(sample_powers(expected, samples))
        for reference, result in zip(*(by_sample(x, samples) for x in (expected, output)), strict=True):
            told, error = np.isfinite(reference), ErrorAccumulator()
            if not told.all():
                reference, result = reference[told], result[told]
            error.add(reference, result)
            if not error.silent:
                self._left.append(error.figures().sqnr_db)

    def decibels(self) -> float | None:
        """Return the SQNR of the median sample; None where no sample is loud."""
        if not Loudness(self._powers).loud:
            return None
        return sorted(self._left)[(len(self._left) - 1) // 2]
