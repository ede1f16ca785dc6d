"""The running figures of one tensor.

Smallest and largest values are over every element. Histograms count all of a small tensor and a sample of a large one
(`statistics.histogram`), sample by sample, so that batching changes nothing; where the model merges the batch with
another axis, feed by feed.

Moving average (onnxruntime, `CalibMovingAverage`): low ← low + c·(low of this feed − low), the same for high, starting
from the first feed.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.channels import ChannelBuilder
from equiquant.calibrate.stats import TensorRecord
from equiquant.errors import DataError
from equiquant.numerics.affine import INT_TYPES, IntType
from equiquant.numerics.calibration.entropy import entropy_cuts
from equiquant.numerics.calibration.pow2 import minmse_exponent
from equiquant.numerics.statistics.extremes import CACHED, extremes
from equiquant.numerics.statistics.histogram import DyadicHistogram, HistogramBuilder
from equiquant.numerics.statistics.sketch import SketchBuilder
from equiquant.recipe import Recipe

__all__ = ["HISTOGRAM_LIMIT", "Accumulator", "Wanted"]

Array = npt.NDArray[Any]

HISTOGRAM_LIMIT = 1 << 13  # elements of a tensor counted per sample, plus a quarter as many of either tail


@dataclass(frozen=True)
class Wanted:
    """Which figures to keep.

    Attributes:
        histogram: A histogram.
        limit: Elements of a tensor counted per sample; None counts all.
        pace: Weight of the newest feed in a moving average; None takes the extremes of all.
        votes: Storage type, and whether a tensor that is never negative gets zero point 0, for the scale of each
            sample; None for no votes.
    """

    histogram: bool
    limit: int | None = HISTOGRAM_LIMIT
    pace: float | None = None
    votes: tuple[IntType, bool] | None = None

    @staticmethod
    def by(recipe: Recipe, *, histogram: bool) -> Wanted:
        """Return what a recipe asks for."""
        kind = INT_TYPES[recipe.activation_type]
        votes = recipe.calibration == "minmse" and recipe.minmse_mode == "most_common"
        # The best cut of a sample's entropy may lie elsewhere (docs/calibration.md).
        every = recipe.exact_histograms or (
            recipe.calibration == "entropy" and entropy_cuts(kind, recipe.histogram_bins)
        )
        return Wanted(
            histogram,
            None if every else HISTOGRAM_LIMIT,
            recipe.moving_average_constant if recipe.moving_average else None,
            (kind, recipe.unsigned_relu) if votes else None,
        )


class Accumulator:
    """The running figures of one tensor.

    Args:
        name: The tensor, for errors.
        wanted: What to keep.
        axis: Its channel axis, for per-channel figures; None for none.
        sketch: Also sketch the channels' magnitudes.
    """

    def __init__(self, name: str, wanted: Wanted, axis: int | None, sketch: bool = False) -> None:
        self._name, self._wanted, self._axis = name, wanted, axis
        self._low, self._high, self._count = math.inf, -math.inf, 0
        self._histogram = HistogramBuilder() if wanted.histogram else None
        self._channels = None if axis is None else ChannelBuilder(axis)
        self._sketch = SketchBuilder() if sketch else None
        self._votes: Counter[tuple[int, int]] = Counter()

    def add(self, x: Array, samples: int = 1) -> None:
        """Take in the tensor's value for one batch of `samples`.

        Raises:
            DataError: A value is NaN or infinite.
        """
        if not x.size:
            return
        if x.dtype not in (np.float32, np.float64):
            x = x.astype(np.float32)
        batch = samples if x.ndim and x.shape[0] == samples else 1
        if self._histogram is not None:
            low, high = self._count_values(self._histogram, x, batch)
        elif self._channels is None:
            lows, highs = extremes(x.reshape(-1), CACHED)
            low, high = float(lows.min()), float(highs.max())
        if self._channels is not None:
            low, high = self._channels.add(x, batch if self._axis else 1)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(
                f"The float model computes NaN or infinite values in tensor '{self._name}' on the calibration data."
            )
        if self._channels is not None and self._channels.uneven:
            self._sketch = None
        if self._sketch is not None and self._axis is not None:
            for part in np.split(x, batch) if self._axis else [x]:
                self._sketch.add(np.moveaxis(part, self._axis, 0).reshape(x.shape[self._axis], -1))
        if self._wanted.votes is not None:
            self._vote(x, batch, *self._wanted.votes)
        if self._wanted.pace is not None and self._count:
            self._low += self._wanted.pace * (low - self._low)
            self._high += self._wanted.pace * (high - self._high)
        else:
            self._low, self._high = min(self._low, low), max(self._high, high)
        self._count += x.size

    def _count_values(self, histogram: HistogramBuilder, x: Array, batch: int) -> tuple[float, float]:
        """Count the values and return the smallest and the largest."""
        limit = self._wanted.limit
        if limit is None or batch == 1 or x.size <= limit * batch:
            return histogram.add(x, limit if batch == 1 else None)
        bounds = np.array([histogram.add(row, limit) for row in x])
        return float(bounds[:, 0].min()), float(bounds[:, 1].max())

    def _vote(self, x: Array, batch: int, kind: IntType, unsigned: bool) -> None:
        for row in x.reshape(batch, -1):
            histogram = DyadicHistogram.of(row)
            positive = unsigned and float(row.min()) >= 0
            for zero in (kind.center, kind.qmin) if positive else (kind.center,):
                self._votes[zero, minmse_exponent(histogram, kind, zero_point=zero)] += 1

    def result(self) -> TensorRecord:
        """Return the figures of everything added so far."""
        low, high = (self._low, self._high) if self._count else (0.0, 0.0)
        histogram = None if self._histogram is None else self._histogram.result()
        sums = None if self._channels is None else self._channels.result()
        sketch = None if self._sketch is None else self._sketch.result()
        return TensorRecord(low, high, self._count, histogram, sums, sketch, dict(sorted(self._votes.items())))
