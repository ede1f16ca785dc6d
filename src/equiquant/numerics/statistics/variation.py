"""How much of a tensor differs from sample to sample, from running sums in float64.

Of values r[n, c] of channel c and sample n, with the mean m[c] over the samples, the share is

    Σ (r[n, c] − m[c])² / Σ r[n, c]²

A score of 3 ± 0.5 is nearly all mean, and 11 dB of it may be no better than to answer 3 for every sample.
Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Variation"]

Array = npt.NDArray[Any]


class Variation:
    """Adds up how far samples are from their mean over any number of batches, in constant memory."""

    def __init__(self) -> None:
        self.samples = 0
        self._mean: Array = np.zeros(1)  # (C,)
        self._spread: Array = np.zeros(1)  # Σ (r − mean)² (C,)

    def add(self, values: Array) -> None:
        """Add a batch of shape (samples, channels)."""
        count, before = len(values), self.samples
        if not count:
            return
        values = values.astype(np.float64)
        mean = values.mean(axis=0)
        apart = mean - self._mean if before else np.zeros_like(mean)
        self.samples += count
        self._spread = self._spread + np.square(values - mean).sum(axis=0) + apart**2 * before * count / self.samples
        self._mean = mean if not before else self._mean + apart * count / self.samples

    @property
    def share(self) -> float:
        """The part of the energy that is not that of the channels' means; 0 without energy, NaN of what is not finite.

        >>> found = Variation()
        >>> found.add(np.array([[3.0], [5.0]]))
        >>> round(found.share, 4)
        0.0588
        """
        spread = float(self._spread.sum())
        energy = spread + self.samples * float(np.square(self._mean).sum())
        return spread / energy if energy else 0.0
