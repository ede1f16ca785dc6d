"""Histograms whose bin width is a power of two, so that they grow and merge without losing anything.

Bin k holds k·2^e <= x < (k + 1)·2^e for −N <= k < N, where N = `BINS` and e is the smallest exponent with
max|x| < N·2^e. A larger value raises e: 2^s neighbouring bins become one, exactly the histogram the coarser width would
have given. The counts therefore depend on the data only, not on its order, its batches or the merges in between
(except that a negative value below 2^−120 of the maximum, which underflows beside it, may count as 0).

The rounding boundaries (k + ½)·2^p of a power-of-two scale are bin edges for every p > e, so all values of a bin round
to the same level and a scale's squared error follows from the bin centers (`calibration.pow2`). For 8 bits the finest
of the MinMSE scales is at least max|x| / (128·16), which makes 4096 half steps: with N = 8192 bins a side the edges
align.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.extremes import extremes
from equiquant.numerics.stride import coprime_stride

__all__ = ["BINS", "DyadicHistogram", "HistogramBuilder", "absolute_exponent"]

Array = npt.NDArray[Any]

BITS = 13
BINS = 1 << BITS
SMALLEST_EXPONENT = -126  # 2^126 is the largest reciprocal width that keeps x·2^(−e) finite in float32
TAIL = 0.25  # of the power of two above the largest magnitude of a side
PIECE = 1 << 11  # elements whose extremes say whether they are looked through for tails
CHUNK = 1 << 15  # elements: 128 KiB of float32 and 256 KiB of indices stay in the second-level cache


def absolute_exponent(bound: float) -> int:
    """Return the exponent of the smallest bin width that covers |x| <= bound.

    >>> absolute_exponent(1.0)  # 1.0 must lie strictly inside, so the bins reach to 2
    -12
    """
    return max(math.frexp(bound)[1] - BITS, SMALLEST_EXPONENT) if bound > 0 else SMALLEST_EXPONENT


@dataclass(frozen=True, eq=False)
class DyadicHistogram:
    """Counts in bins of width 2**exponent aligned at 0.

    Attributes:
        exponent: log2 of the bin width.
        counts: int64 of shape `(2 * BINS,)`; entry k + BINS counts the values in [k, k + 1)·2**exponent.
        low: The smallest value, exactly; 0 when empty.
        high: The largest value, exactly; 0 when empty.
    """

    exponent: int
    counts: Array
    low: float
    high: float

    @staticmethod
    def of(x: Array) -> DyadicHistogram:
        """Return the histogram of all elements of `x`, finite floats of any shape."""
        builder = HistogramBuilder()
        builder.add(x)
        return builder.result()

    @staticmethod
    def merged(parts: Iterable[DyadicHistogram]) -> DyadicHistogram:
        """Return the histogram of the union of all parts; of nothing, the empty one."""
        result = DyadicHistogram.of(np.zeros(0, np.float32))
        for part in parts:
            result = result.merge(part)
        return result

    def merge(self, other: DyadicHistogram) -> DyadicHistogram:
        """Return the histogram of the union; the coarser width wins. Exact, commutative and associative."""
        if not other.total:
            return self
        if not self.total:
            return other
        exponent = max(self.exponent, other.exponent)
        counts = _coarsen(self.counts, exponent - self.exponent) + _coarsen(other.counts, exponent - other.exponent)
        return DyadicHistogram(exponent, counts, min(self.low, other.low), max(self.high, other.high))

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    def occupied(self) -> tuple[Array, Array]:
        """Return the centers (float64, clipped to [low, high]) and the counts of the bins that are not empty."""
        index = np.flatnonzero(self.counts != 0)  # of integers it takes twice as long
        centers = np.ldexp(index - BINS + 0.5, self.exponent)
        return np.clip(centers, self.low, self.high), self.counts[index]

    def edges(self) -> Array:
        """Return the edges of all bins, float64 of shape `(2 * BINS + 1,)`."""
        return np.ldexp(np.arange(-BINS, BINS + 1, dtype=np.float64), self.exponent)

    def __eq__(self, other: object) -> bool:
        """Equal when width, counts and range are the same."""
        return (
            isinstance(other, DyadicHistogram)
            and (self.exponent, self.low, self.high) == (other.exponent, other.low, other.high)
            and np.array_equal(self.counts, other.counts)
        )


class HistogramBuilder:
    """Accumulates a `DyadicHistogram` over a stream of arrays; memory does not depend on how many."""

    def __init__(self) -> None:
        self._exponent = SMALLEST_EXPONENT
        self._counts: Array = np.zeros(2 * BINS, np.int64)
        self._low, self._high = math.inf, -math.inf

    def add(self, x: Array, limit: int | None = None) -> tuple[float, float]:
        """Count the elements of `x`; return its smallest and largest value.

        A larger array than `limit` is sampled: every k-th element counts k times. The tails of either side, beyond
        `TAIL` times the power of two above its largest magnitude, decide the clipping error and are few: they count one
        by one. Where the sample says that they exceed a quarter of `limit` the tail begins further out, and where most
        lies at the very end it is sampled too. What is counted depends on `x` only: the order of a stream does not
        matter.

        Args:
            x: Finite values, any shape; counted as float32. Nothing is counted if one is NaN or infinite.
            limit: About how many elements to count; None counts all.
        """
        if x.size == 0:
            return math.inf, -math.inf
        flat = x.reshape(-1)
        lows, highs = extremes(flat, PIECE)
        low, high = float(lows.min()), float(highs.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return low, high
        self._low, self._high = min(self._low, low), max(self._high, high)
        one = _Bins(low, high)
        if limit is None or flat.size <= limit:
            self._take(one, one.count(flat))
            return low, high
        stride = coprime_stride(-(-flat.size // limit), flat.size)
        found = one.count(flat[::stride]) * stride
        bottom, top = one.tails(found, limit // 4)
        far = one.count(one.beyond(flat, lows, highs, bottom, top))
        found[:bottom], found[top:] = far[:bottom], far[top:]
        self._take(one, found)
        return low, high

    def _take(self, one: _Bins, found: Array) -> None:
        """Add the counts of one array."""
        if one.exponent > self._exponent:
            self._counts = _coarsen(self._counts, one.exponent - self._exponent)
            self._exponent = one.exponent
        if one.exponent < self._exponent:
            whole = np.zeros_like(self._counts)
            whole[one.first + BINS :][: found.size] = found
            self._counts += _coarsen(whole, self._exponent - one.exponent)
        else:
            self._counts[one.first + BINS :][: found.size] += found

    def result(self) -> DyadicHistogram:
        """Return the histogram of everything added so far."""
        empty = self._low > self._high
        low, high = (0.0, 0.0) if empty else (self._low, self._high)
        counts = self._counts.copy()
        counts.flags.writeable = False
        return DyadicHistogram(self._exponent, counts, low, high)


class _Bins:
    """The bins of one array, from that of its smallest value to that of its largest.

    Args:
        low: Smallest value of the array.
        high: Largest value.
    """

    def __init__(self, low: float, high: float) -> None:
        self.exponent = absolute_exponent(max(-low, high))
        self.first, self._last = (math.floor(math.ldexp(v, -self.exponent)) for v in (low, high))
        self._edges = tuple(math.ldexp(TAIL, math.frexp(v)[1] - self.exponent) if v > 0 else BINS for v in (-low, high))

    def count(self, flat: Array) -> Array:
        """Return the counts, int64."""
        counts = self._count(flat[:CHUNK])
        for start in range(CHUNK, flat.size, CHUNK):
            counts += self._count(flat[start : start + CHUNK])
        return counts

    def _count(self, flat: Array) -> Array:
        scaled = np.multiply(flat, np.float32(math.ldexp(1.0, -self.exponent)), dtype=np.float32)  # exact: 2^e
        if self.first < 0:  # conversion to integers cuts towards 0, which is the floor of what is not negative
            np.floor(scaled, out=scaled)
        if self.first:
            scaled -= self.first  # exact below 2^14 where it matters: the integer part
        bins = scaled.astype(np.int32).astype(np.intp)  # both steps at once take twice as long
        return np.bincount(bins, minlength=self._last - self.first + 1)

    def tails(self, found: Array, limit: int) -> tuple[int, int]:
        """Return which counts belong to tails of at most about `limit` elements: those before, and those from, ..."""
        below, above = (max(math.ceil(edge), 1) for edge in self._edges)
        bottom, top = max(-below - self.first, 0), max(above - self.first, 0)
        if bottom and (seen := np.cumsum(found[:bottom]))[-1] > limit:
            bottom = int(np.searchsorted(seen, limit, side="right"))
        if top < found.size and (seen := np.cumsum(found[top:][::-1]))[-1] > limit:
            top = found.size - int(np.searchsorted(seen, limit, side="right"))
        return bottom, min(top, found.size)

    def beyond(self, flat: Array, lows: Array, highs: Array, bottom: int, top: int) -> Array:
        """Return the elements in the first `bottom` bins and in those from `top`, given the extremes of the pieces."""
        under, over = (np.float32(math.ldexp(k + self.first, self.exponent)) for k in (bottom, top))
        hit = highs >= over
        if bottom:
            hit |= lows < under
        if 2 * int(hit.sum()) < hit.size:
            whole = flat.size // PIECE
            rows = flat[: whole * PIECE].reshape(whole, PIECE)[hit[:whole]].reshape(-1)
            flat = np.concatenate([rows, flat[whole * PIECE :]]) if hit[whole:].any() else rows
        mask = flat >= over
        if bottom:
            mask |= flat < under
        return np.compress(mask, flat)


def _coarsen(counts: Array, shift: int) -> Array:
    """Return the counts with bins 2**shift times as wide: bin k goes to floor(k / 2**shift)."""
    if shift == 0:
        return counts
    shift = min(shift, BITS)  # by then each side is one bin, and stays one
    pooled = counts
    for _ in range(shift):
        pooled = pooled[::2] + pooled[1::2]  # a fraction of the time of `sum` over short rows
    result = np.zeros_like(counts)
    half = pooled.size // 2
    result[BINS - half : BINS + half] = pooled
    return result
