"""A sketch of how large the values of each channel are: counts in bins of a quarter octave, by sign.

The bin of a float32 is read off its bits: the sign, the exponent and the two leading bits of the mantissa. A bin stands
for its center, exact to 12 %. Counted are the values within 26 octaves of the largest of the tensor, whatever its unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.stride import coprime_stride

__all__ = ["MagnitudeCounts", "MagnitudeSketch", "SketchBuilder"]

Array = npt.NDArray[Any]

MANTISSA_BITS = 2
BINS = 26 << MANTISSA_BITS  # of one sign, 156 dB
SHIFT = 23 - MANTISSA_BITS
PATTERNS = 1 << (8 + MANTISSA_BITS)  # of leading bits, the sign left out
COUNTED = 1 << 13  # values of a tensor counted per sample: every so many positions of each channel
PENDING = 1 << 16  # values kept before they are counted, in 16 bits each, so that one call serves many samples
NARROW = np.iinfo(np.int32).max  # values seen up to which int32 counts do, half the memory


@dataclass(frozen=True, eq=False)
class MagnitudeSketch:
    """Where the magnitudes of a tensor's channels lie, on one side of 0.

    Attributes:
        values: (J,) the magnitude each bin stands for, ascending; bins no channel reaches are left out.
        share: (C, J) share of all the channel's values in each bin.
        high: (C,) largest magnitude, 0 where the side is empty.
        edges: (J,) the least magnitude in each bin.
        count: Values a channel has seen, on both sides and 0, whether counted or not.
    """

    values: Array
    share: Array
    high: Array
    edges: Array
    count: int


@dataclass(frozen=True, eq=False)
class MagnitudeCounts:
    """The sketches of both sides of one tensor in a form that adds up.

    Attributes:
        counts: `(2, C, BINS)`: positive, negative; int32, or int64 where more values were seen than that holds.
        top: The leading bits of the largest value, sign left out: those of the last bin.
        seen: Values of a channel that were looked at.
    """

    counts: Array
    top: int
    seen: int

    def merge(self, other: MagnitudeCounts) -> MagnitudeCounts:
        """Return the counts of the union; exact, in any order."""
        seen, top = self.seen + other.seen, max(self.top, other.top)
        mine, others = (_raised(x.counts, top - x.top) for x in (self, other))
        return MagnitudeCounts(np.add(mine, others, dtype=_count_type(seen)), top, seen)

    def sides(self, low: Array, high: Array, count: int) -> tuple[MagnitudeSketch, MagnitudeSketch]:
        """Return the sketches of the positive and of the negative side.

        Args:
            low: (C,) smallest value of each channel.
            high: (C,) largest.
            count: Values each channel has.
        """
        bits = np.maximum(np.arange(BINS) + self.top - BINS + 1, 0).astype(np.int32) << SHIFT
        edges, centers = ((bits + np.int32(add)).view(np.float32).astype(np.float64) for add in (0, 1 << (SHIFT - 1)))

        def side(counts: Array, reach: Array) -> MagnitudeSketch:
            used = counts.any(axis=0)
            share = counts[:, used] / max(self.seen, 1)
            return MagnitudeSketch(centers[used], share, np.maximum(reach, 0.0), edges[used], count)

        return side(self.counts[0], high), side(self.counts[1], -low)


class SketchBuilder:
    """Accumulates `MagnitudeCounts`."""

    def __init__(self) -> None:
        self._counts: Array = np.zeros((2, 0, BINS), np.int32)
        self._top = 0
        self._seen = 0
        self._waiting: list[Array] = []  # leading bits of (C, positions)
        self._pending = 0

    def add(self, channels: Array) -> None:
        """Count one sample, float32 (C, positions), at some positions."""
        size, positions = channels.shape
        if not self._counts.shape[1]:
            self._counts = np.zeros((2, size, BINS), np.int32)
        stride = coprime_stride(size * positions // COUNTED, positions)
        some = np.ascontiguousarray(channels[:, ::stride], dtype=np.float32)
        self._waiting.append((some.view(np.uint32) >> SHIFT).astype(np.uint16))
        self._pending += some.size
        self._seen += some.shape[1]
        if self._pending >= PENDING:
            self._flush()

    def result(self) -> MagnitudeCounts:
        """Return the counts of everything added so far."""
        self._flush()
        return MagnitudeCounts(self._counts.copy(), self._top, self._seen)

    def _flush(self) -> None:
        if not self._pending:
            return
        leading = np.concatenate(self._waiting, axis=1)
        self._waiting, self._pending = [], 0
        top = max(self._top, int((leading & (PATTERNS - 1)).max()))
        channels, kind = self._counts.shape[1], _count_type(self._seen)
        places = _bins(top).take(leading)
        places += (np.arange(channels, dtype=np.int32) * (2 * BINS + 1))[:, None]
        found = np.bincount(places.reshape(-1), minlength=channels * (2 * BINS + 1)).reshape(channels, -1)
        fresh = found[:, : 2 * BINS].reshape(channels, 2, BINS).swapaxes(0, 1)
        self._counts = np.add(_raised(self._counts, top - self._top), fresh, dtype=kind, casting="unsafe")
        self._top = top


def _bins(top: int) -> Array:
    """Return the bin of each pattern of leading bits where `top` is in the last: int32 of shape `(2 · PATTERNS,)`.

    0 to BINS − 1 for positive values, from BINS on for negative ones, 2·BINS for what is not counted: zeros, and what
    is too small. Patterns above `top` do not occur.
    """
    pattern = np.arange(PATTERNS, dtype=np.int32)
    bins = pattern - (top - BINS + 1)
    counted = (bins >= 0) & (pattern > 0)
    return np.concatenate([np.where(counted, bins + side * BINS, 2 * BINS) for side in (0, 1)])


def _raised(counts: Array, bins: int) -> Array:
    """Return counts (2, C, BINS) whose last bin lies higher; what falls below the first is left out."""
    if not bins:
        return counts
    result = np.zeros_like(counts)
    result[..., : max(0, BINS - bins)] = counts[..., bins:]
    return result


def _count_type(seen: int) -> type[np.signedinteger[Any]]:
    """Return the type that holds counts of so many values."""
    return np.int32 if seen <= NARROW else np.int64
