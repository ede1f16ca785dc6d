"""Moments of a layer's inputs, float and quantized, added up sample by sample.

With x the column of a layer's inputs at one output position in the float network and x_q the same in the quantized one,
averaged over positions and samples:

    second = E[x_q x_qᵀ] + λ · mean over samples of x̄_q x̄_qᵀ        x̄_q: mean over the positions of one sample
    drift  = E[W (x − x_q) x_qᵀ]

The second term counts noise that is constant over a sample once more: later layers average the rest away.
Source: Frantar et al., arXiv:2210.17323, for E[x xᵀ].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Moments"]

Array = npt.NDArray[Any]

SAMPLE_WEIGHT = 4.0  # λ, measured: 0.2 to 0.9 dB at the output over 0, and as good as 8 (docs/refinement.md)
BLOCK_BYTES = 8_000_000  # of inputs reduced at a time


class Moments:
    """Sums over samples.

    Args:
        rows: (G, M, K) the float weights of G groups.

    Attributes:
        samples: Samples so far.
    """

    def __init__(self, rows: Array) -> None:
        groups, outputs, size = rows.shape
        self._rows = np.ascontiguousarray(rows, dtype=np.float32)
        self._mean = np.zeros((groups, size))
        self._second = np.zeros((groups, size, size))
        self._drift = np.zeros((groups, outputs, size))
        self._drift_mean = np.zeros((groups, outputs))
        self._waiting: list[tuple[Array, Array]] = []
        self.samples = 0

    def add(self, drift: Array, rounded: Array) -> None:
        """Add samples.

        Args:
            drift: (N, G, K, P) float32 x − x_q.
            rounded: (N, G, K, P) float32 x_q.
        """
        if self._waiting and self._waiting[0][0].shape[1:] != drift.shape[1:]:
            self.reduce()
        self._waiting.append((drift, rounded))
        self.samples += len(drift)
        if sum(x.nbytes for x, _ in self._waiting) > BLOCK_BYTES:
            self.reduce()

    def merge(self, other: Moments) -> None:
        """Add what another one, of the same weights, has seen."""
        self.reduce()
        other.reduce()
        self._mean += other._mean
        self._second += other._second
        self._drift += other._drift
        self._drift_mean += other._drift_mean
        self.samples += other.samples

    def reduce(self) -> None:
        """Add what is waiting, in few and large products of matrices; whatever reads the sums does so first."""
        if not self._waiting:
            return
        positions = self._waiting[0][0].shape[3]
        drift, rounded = (_side_by_side(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        images = rounded.reshape(*rounded.shape[:2], -1, positions) @ np.full(positions, 1 / positions, np.float32)
        transposed = rounded.swapaxes(1, 2)
        self._mean += images.sum(axis=2, dtype=np.float64)
        self._second += (rounded @ transposed) / positions
        self._second += SAMPLE_WEIGHT * (images @ images.swapaxes(1, 2))
        drift = self._rows @ drift
        self._drift += (drift @ transposed) / positions
        self._drift_mean += drift.sum(axis=2, dtype=np.float64) / positions

    def second(self) -> Array:
        """Return the second moments, (G, K, K)."""
        self.reduce()
        return self._second / self.samples

    def with_one(self) -> Array:
        """Return the second moments of every input with a constant input of 1, (G, K)."""
        self.reduce()
        return (1 + SAMPLE_WEIGHT) * self._mean / self.samples

    def centered(self) -> tuple[Array, Array]:
        """Return the second moments and the drift, (G, K, K) and (G, M, K), that remain where the bias is free.

        That is the Schur complement of the constant input, whose weight the bias is, in the moments of [1; x_q].
        """
        self.reduce()
        mean = self._mean / self.samples
        second = self._second / self.samples - (1 + SAMPLE_WEIGHT) * mean[:, :, None] * mean[:, None, :]
        drift = self._drift / self.samples - (self._drift_mean / self.samples)[:, :, None] * mean[:, None, :]
        return second, drift


def _side_by_side(parts: Sequence[Array]) -> Array:
    """Return samples (N, G, K, P) as a new (G, K, N·P)."""
    joined = np.concatenate([np.moveaxis(part, 0, 2) for part in parts], axis=2)
    return joined.reshape(*joined.shape[:2], -1)
