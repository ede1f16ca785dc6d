"""A sketch of how large the values of each channel are: counts in bins of a quarter octave, by sign.

The bin of a float32 is read off its bits: the exponent and the two leading bits of the mantissa. A bin stands for its
center, exact to 12 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MagnitudeSketch", "SketchBuilder"]

Array = npt.NDArray[Any]

MANTISSA_BITS = 2
LOWEST, HIGHEST = -20, 14  # octaves: values below 2^LOWEST are not counted, above 2^HIGHEST all in one bin
BINS = (HIGHEST - LOWEST) << MANTISSA_BITS
FIRST = (127 + LOWEST) << MANTISSA_BITS
COUNTED = 1 << 15  # values of a tensor counted per feed: every so many positions of each channel


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


class SketchBuilder:
    """Accumulates the sketches of both sides of one tensor."""

    def __init__(self) -> None:
        self._counts: Array | None = None
        self._high: Array = np.zeros((2, 0))
        self._seen = 0

    def add(self, channels: Array) -> None:
        """Count one batch, float32 (C, positions): its extremes over all positions, its bins over some."""
        size, positions = channels.shape
        if self._counts is None:
            self._counts, self._high = np.zeros((2, size * BINS)), np.zeros((2, size))
        self._high[0] = np.maximum(self._high[0], channels.max(axis=1, initial=0.0))
        self._high[1] = np.maximum(self._high[1], -channels.min(axis=1, initial=0.0))
        step = max(1, size * positions // COUNTED)
        some = np.ascontiguousarray(channels[:, ::step], dtype=np.float32)
        rows = np.repeat(np.arange(size) * BINS, some.shape[1])
        for side, values in enumerate((some, -some)):
            bins = (values.reshape(-1).view(np.int32) >> (23 - MANTISSA_BITS)) - FIRST
            counted = bins >= 0  # a negative float has its sign bit set: its bits are a negative integer
            places = rows[counted] + np.minimum(bins[counted], BINS - 1)
            self._counts[side] += np.bincount(places, minlength=size * BINS)
        self._seen += some.shape[1]

    def result(self) -> tuple[MagnitudeSketch, MagnitudeSketch]:
        """Return the sketches of the positive and of the negative side."""
        if self._counts is None:
            empty = MagnitudeSketch(np.zeros(0), np.zeros((0, 0)), np.zeros(0))
            return empty, empty
        bits = (np.arange(BINS) + FIRST).astype(np.int32) << (23 - MANTISSA_BITS)
        width = np.int32(1 << (22 - MANTISSA_BITS))
        centers = (bits + width).view(np.float32).astype(np.float64)
        sketches = []
        for counts, high in zip(self._counts, self._high, strict=True):
            share = counts.reshape(-1, BINS) / max(self._seen, 1)
            used = share.any(axis=0)
            sketches.append(MagnitudeSketch(centers[used], share[:, used], high))
        return sketches[0], sketches[1]
