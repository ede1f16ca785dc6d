"""Per-channel figures of a stream of activations: low, high, Σ x, Σ x², and the part of Σ x² that is constant.

Constant is what a sample's mean makes: Σ over samples of (Σ_positions x)² / positions.

An axis whose size differs from sample to sample, like the time of recordings, is no channel axis: then there are none.

Within one sample the positions of a channel are summed in float32 (float64 where channels are last); samples are then
added without rounding (`statistics.exact_sum`). Neither the order nor the batching of the samples changes a bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.stats import ChannelSums
from equiquant.numerics.statistics.exact_sum import ExactSum
from equiquant.numerics.statistics.extremes import CACHED, extremes

__all__ = ["ChannelBuilder"]

Array = npt.NDArray[Any]

SAFE_SQUARE = 1e15  # magnitudes up to here are squared and summed in float32 without overflow


class ChannelBuilder:
    """Accumulates `ChannelSums` along one axis.

    Args:
        axis: The channel axis, >= 0.

    Attributes:
        uneven: The size of the axis changed from one sample to the next.
    """

    def __init__(self, axis: int) -> None:
        self.uneven = False
        self._axis = axis
        self._count = 0
        self._low: Array | None = None
        self._high: Array = np.zeros(0)
        self._sum, self._square, self._constant = ExactSum(0), ExactSum(0), ExactSum(0)

    def add(self, x: Array, samples: int = 1) -> tuple[float, float]:
        """Take in one batch; return its smallest and largest value.

        Args:
            x: The values, float32 or float64.
            samples: How many samples lie along axis 0; 1 where it is no batch.
        """
        channels = x.shape[self._axis]
        blocks = x.reshape(int(np.prod(x.shape[: self._axis])), channels, -1)  # (outer, C, inner)
        if self._low is None:
            self._low, self._high = np.full(channels, np.inf), np.full(channels, -np.inf)
            self._sum, self._square, self._constant = ExactSum(channels), ExactSum(channels), ExactSum(channels)
        low, high, *sums = _by_rows(blocks, samples) if blocks.shape[2] == 1 else _by_planes(blocks)
        self.uneven |= low.size != self._low.size
        if self.uneven:
            return float(low.min()), float(high.max())
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self._count += blocks.shape[0] * blocks.shape[2]
        smallest, largest = float(low.min()), float(high.max())
        if np.isfinite(smallest) and np.isfinite(largest):  # else the caller refuses the sample
            total, square = sums
            self._sum.add(total)
            self._square.add(square)
            self._constant.add(np.square(total) / (blocks.size // total.size))
        return smallest, largest

    def result(self) -> ChannelSums | None:
        """Return the figures of everything added so far; None if there are no channels."""
        if self.uneven:
            return None
        low = self._low if self._low is not None else np.zeros(0)
        sums = (s.digits() for s in (self._sum, self._square, self._constant))
        return ChannelSums(self._axis, self._count, low, self._high, *sums)


def _by_rows(blocks: Array, samples: int) -> tuple[Array, Array, Array, Array]:
    """Return low and high, (C,), Σ x and Σ x², (samples, C), where channels are last: (positions, C, 1)."""
    rows = blocks[:, :, 0]
    low, high = rows.min(axis=0), rows.max(axis=0)
    if not np.isfinite(max(-low.min(), high.max())):
        return low, high, np.zeros((samples, low.size)), np.zeros((samples, low.size))
    parts = np.split(rows, samples)
    total = [part.sum(axis=0, dtype=np.float64) for part in parts]
    square = [np.einsum("oc,oc->c", part, part, dtype=np.float64) for part in parts]
    return low, high, np.array(total), np.array(square)


def _by_planes(blocks: Array) -> tuple[Array, Array, Array, Array]:
    """Return low and high, (C,), Σ x and Σ x², (outer, C), of (outer, C, positions).

    Everything is taken from a few channels while they are in cache.
    """
    rows = blocks.reshape(-1, blocks.shape[2])
    result = np.zeros((4, len(rows)))
    together = max(1, CACHED // rows.shape[1])
    for first in range(0, len(rows), together):
        some = rows[first : first + together]
        low, high, total, square = result[:, first : first + together]
        low[:], high[:] = extremes(some.reshape(-1), rows.shape[1])
        largest = max(-low.min(), high.max())
        if np.isfinite(largest):
            wide = some if largest < SAFE_SQUARE else some.astype(np.float64)
            total[:] = np.einsum("ri->r", wide)  # half the time of `sum`
            square[:] = np.einsum("ri,ri->r", wide, wide)
    low, high, total, square = result.reshape(4, *blocks.shape[:2])
    return low.min(axis=0), high.max(axis=0), total, square
