"""What is left of the median sample of an output, where a few loud ones are most of what is measured.

Signal and noise are summed over samples: of a detector that is a hundred times as sure of the black bars beside a photo
as of anything in it, 20 dB may be left in all and 6 of a photo without bars. That is told where samples are as loud as
`numerics.loudness` says, but for a final Softmax or Sigmoid, which is nearly 0 wherever it finds nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.loudness import Loudness, by_sample, in_blocks, sample_powers, sum_squares
from equiquant.numerics.sqnr import decibels

__all__ = ["MedianSample"]

Array = npt.NDArray[Any]


class MedianSample:
    """Collects signal and noise of the samples of one output."""

    def __init__(self) -> None:
        self._powers: list[Array] = []
        self._noise: list[Array] = []

    def add(self, expected: Array, output: Array, samples: int) -> None:
        """Add one feed's values."""
        self._powers.append(sample_powers(expected, samples))
        blocks = zip(*(in_blocks(by_sample(x, samples)) for x in (expected, output)), strict=True)
        self._noise.append(sum_squares(_errors(reference, result) for reference, result in blocks))

    def decibels(self) -> float | None:
        """Return the SQNR of the median sample; None where no sample is loud."""
        if not Loudness(self._powers).loud:
            return None
        pairs = zip(np.concatenate(self._powers), np.concatenate(self._noise), strict=True)
        found = sorted(decibels(float(power), float(noise)) for power, noise in pairs if power > 0)
        return found[(len(found) - 1) // 2]


def _errors(expected: Array, output: Array) -> Array:
    """Return the errors of what is finite, infinite where the output is not: a masked logit of −∞ is no noise."""
    errors = np.where(np.isfinite(output), output, np.inf) - np.where(np.isfinite(expected), expected, 0)
    return np.where(np.isfinite(expected), errors, 0)
