"""What is left of the single samples of an output: signal and noise summed over all of them do not tell.

20 dB may be left in all and 6 of the median sample, where a detector is a hundred times as sure of the black bars
beside a photo as of anything in it; that is told where samples are as loud as `statistics.loudness` says, but
for a final Softmax or Sigmoid, which is nearly 0 wherever it finds nothing. And a quarter of the samples may have much
less left than the whole; that is told of a Softmax or Sigmoid, too, which finds something in every sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.loudness import MEDIANS, Loudness, by_sample, sample_powers
from equiquant.numerics.statistics.sqnr import BLOCK, decibels

__all__ = ["SingleSamples"]

Array = npt.NDArray[Any]


class SingleSamples:
    """Collects signal and noise of the samples of one output."""

    def __init__(self) -> None:
        self._powers: list[Array] = []
        self._left: list[float] = []  # SQNR of each sample that has a signal, dB

    @property
    def even(self) -> bool:
        """True if all samples have about the same power."""
        powers = np.concatenate([*self._powers, np.zeros(0)])
        return bool(powers.max(initial=0.0) <= MEDIANS * powers.min(initial=np.inf))

    def add(self, expected: Array, output: Array, samples: int) -> None:
        """Add one feed's values; a masked logit of −∞ is neither signal nor noise."""
        self._powers.append(sample_powers(expected, samples))
        reference, result = (by_sample(x, samples) for x in (expected, output))
        rows = max(1, BLOCK // max(1, reference.shape[1]))
        for k in range(0, len(reference), rows):
            self._left += _sqnr_db(reference[k : k + rows], result[k : k + rows])

    def median_db(self) -> float | None:
        """Return the SQNR of the median sample; None where no sample is loud."""
        return self._below(1 / 2) if Loudness(self._powers).loud else None

    def quartile_db(self) -> float | None:
        """Return the SQNR that a quarter of the samples do not exceed; None of fewer than two."""
        return self._below(1 / 4) if len(self._left) > 1 else None

    def _below(self, share: float) -> float:
        """Return the SQNR that a share of the samples that have a signal do not exceed, one sample at least."""
        return sorted(self._left)[int((len(self._left) - 1) * share)]


def _sqnr_db(reference: Array, result: Array) -> list[float]:
    """Return the SQNR of each row (samples, N) that has a signal, dB."""
    told = np.isfinite(reference)
    r = np.where(told, reference, 0).astype(np.float64)
    difference = r - np.where(told, result, 0)
    sums = (np.einsum("ni,ni->n", x, x) for x in (r, difference))
    return [decibels(signal, noise) for signal, noise in zip(*sums, strict=True) if signal > 0]
