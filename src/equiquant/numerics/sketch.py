"""A sketch of how large the values of each channel are: counts in bins of a quarter octave, by sign.

The bin of a float32 is read off its bits: the sign, the exponent and the two leading bits of the mantissa. A bin stands
for its center, exact to 12 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MagnitudeCounts", "MagnitudeSketch", "SketchBuilder"]

Array = npt.NDArray[Any]

MANTISSA_BITS = 2
LOWEST, HIGHEST = -20, 14  # octaves: values below 2^LOWEST are not counted, above 2^HIGHEST all in one bin
BINS = (HIGHEST - LOWEST) << MANTISSA_BITS
FIRST = (127 + LOWEST) << MANTISSA_BITS
SHIFT = 23 - MANTISSA_BITS
COUNTED = 1 << 13  # values of a tensor counted per sample: every so many positions of each channel
PENDING = 1 << 16  # values kept before they are counted, in 16 bits each, so that one call serves many samples
NARROW = np.iinfo(np.int32).max  # values seen up to which int32 counts do, half the memory


def _bin_table() -> Array:
    """Return the bin of each pattern of leading bits: 0 to BINS − 1 for positive, from BINS for negative, else 2·BINS.

    int16 of shape `(2 << (8 + MANTISSA_BITS),)`; the last bin is for what is not counted.
    """
    magnitude = np.arange(1 << (8 + MANTISSA_BITS))
    bins = np.minimum(magnitude - FIRST, BINS - 1)
    return np.concatenate([np.where(bins >= 0, bins + side * BINS, 2 * BINS) for side in (0, 1)]).astype(np.int16)


BIN_OF = _bin_table()


@dataclass(frozen=True, eq=False)
class MagnitudeSketch:
    """Where the magnitudes of a tensor's channels lie, on one side of 0.

    Attributes:
        values: (J,), or (C, J) where channels differ, the magnitude each bin stands for, ascending; bins no channel
            reaches are left out.
        share: (C, J) share of all the channel's values in each bin.
        high: (C,) largest magnitude, 0 where the side is empty.
    """

    values: Array
    share: Array
    high: Array


@dataclass(frozen=True, eq=False)
class MagnitudeCounts:
    """The sketches of both sides of one tensor in a form that adds up.

    Attributes:
        counts: `(2, C, BINS)`: positive, negative; int32, or int64 where more values were seen than that holds.
        seen: Values of a channel that were looked at.
    """

    counts: Array
    seen: int

    def merge(self, other: MagnitudeCounts) -> MagnitudeCounts:
        """Return the counts of the union; exact, in any order."""
        seen = self.seen + other.seen
        return MagnitudeCounts(np.add(self.counts, other.counts, dtype=_count_type(seen)), seen)

    def sides(self, low: Array, high: Array) -> tuple[MagnitudeSketch, MagnitudeSketch]:
        """Return the sketches of the positive and of the negative side.

        Args:
            low: (C,) smallest value of each channel.
            high: (C,) largest.
        """
        bits = (np.arange(BINS) + FIRST).astype(np.int32) << SHIFT
        centers = (bits + np.int32(1 << (SHIFT - 1))).view(np.float32).astype(np.float64)
        sketches = []
        for counts, reach in zip(self.counts, (high, -low), strict=True):
            used = counts.any(axis=0)
            sketches.append(MagnitudeSketch(centers[used], counts[:, used] / max(self.seen, 1), np.maximum(reach, 0.0)))
        return sketches[0], sketches[1]


class SketchBuilder:
    """Accumulates `MagnitudeCounts`."""

    def __init__(self) -> None:
        self._counts: Array = np.zeros((0, 2 * BINS + 1), np.int32)
        self._seen = 0
        self._waiting: list[Array] = []  # bins of (C, positions)
        self._pending = 0

    def add(self, channels: Array) -> None:
        """Count one sample, float32 (C, positions), at some positions."""
        size, positions = channels.shape
        if not len(self._counts):
            self._counts = np.zeros((size, 2 * BINS + 1), np.int32)
        some = np.ascontiguousarray(channels[:, :: _stride(size, positions)], dtype=np.float32)
        self._waiting.append(BIN_OF.take(some.view(np.uint32) >> SHIFT))
        self._pending += some.size
        self._seen += some.shape[1]
        if self._pending >= PENDING:
            self._flush()

    def result(self) -> MagnitudeCounts:
        """Return the counts of everything added so far."""
        self._flush()
        counts = self._counts[:, : 2 * BINS].reshape(-1, 2, BINS).swapaxes(0, 1)
        return MagnitudeCounts(counts.copy(), self._seen)

    def _flush(self) -> None:
        if self._waiting:
            first = np.arange(len(self._counts)) * self._counts.shape[1]
            places = np.concatenate(self._waiting, axis=1) + first[:, None]
            found = np.bincount(places.reshape(-1), minlength=self._counts.size)
            kind = _count_type(self._seen)
            self._counts = self._counts.astype(kind, copy=False)
            self._counts += found.reshape(self._counts.shape).astype(kind)
            self._waiting, self._pending = [], 0


def _count_type(seen: int) -> type[np.signedinteger[Any]]:
    """Return the type that holds counts of so many values."""
    return np.int32 if seen <= NARROW else np.int64


def _stride(size: int, positions: int) -> int:
    """Return which positions of each channel to count, every so many; so that all rows and columns have their turn."""
    stride = max(1, size * positions // COUNTED)
    while math.gcd(stride, positions) > 1:
        stride += 1
    return stride
