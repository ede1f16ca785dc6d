"""What calibration remembers of the activations: frozen, small, mergeable.

Merging is exact: minima, maxima and counts are, histograms coarsen without loss, and sums are kept without rounding
(`statistics.exact_sum`). The statistics of shards, merged in any order, are those of one run over all samples, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.errors import DataError
from equiquant.numerics.affine import IntType
from equiquant.numerics.ranges.chosen import ChosenRanges
from equiquant.numerics.statistics.exact_sum import ExactSum
from equiquant.numerics.statistics.figures import ChannelFigures
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.numerics.statistics.sketch import MagnitudeCounts, MagnitudeSketch

__all__ = ["AppliedScales", "ChannelSums", "TensorRecord", "TensorStats", "Votes"]

Array = npt.NDArray[Any]
Votes = Mapping[tuple[int, int], int]
"""How many samples have each (zero point, exponent) as their own power-of-two scale of least squared error."""


@dataclass(frozen=True, eq=False)
class ChannelSums:
    """Per-channel figures of one tensor in a form that adds up.

    Attributes:
        axis: The channel axis.
        count: Values a channel.
        low: Smallest value of each channel, float64 `(C,)`.
        high: Largest value.
        total: Digits of Σ x, see `ExactSum`.
        square: Digits of Σ x².
        constant: Digits of Σ (Σ_positions x)² / positions over samples: what their means make of Σ x².
    """

    axis: int
    count: int
    low: Array
    high: Array
    total: Array
    square: Array
    constant: Array

    def merge(self, other: ChannelSums) -> ChannelSums:
        """Return the figures of the union."""
        pairs = ((self.total, other.total), (self.square, other.square), (self.constant, other.constant))
        sums = (ExactSum.of_digits(a).merge(ExactSum.of_digits(b)).digits() for a, b in pairs)
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return ChannelSums(self.axis, self.count + other.count, low, high, *sums)

    def figures(self) -> ChannelFigures:
        """Return means and extremes."""
        sums = (ExactSum.of_digits(d).value() / max(self.count, 1) for d in (self.total, self.square, self.constant))
        return ChannelFigures(self.axis, self.low, self.high, *sums)


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """What is known of one tensor.

    Attributes:
        low: Smallest value seen (or the moving average of the smallest).
        high: Largest value seen.
        count: Number of elements seen.
        histogram: Distribution, when a method needs one.
        sums: Per-channel sums, when asked for.
        sketch: How large the values of each channel are, when asked for.
        votes: Each sample's own scale, when asked for.
    """

    low: float
    high: float
    count: int
    histogram: DyadicHistogram | None = None
    sums: ChannelSums | None = None
    sketch: MagnitudeCounts | None = None
    votes: Votes = field(default_factory=dict)

    @cached_property
    def channels(self) -> ChannelFigures | None:
        """Per-channel figures, when asked for."""
        return None if self.sums is None else self.sums.figures()

    @cached_property
    def sketches(self) -> tuple[MagnitudeSketch, MagnitudeSketch] | None:
        """Sketches of the positive and of the negative side, when asked for."""
        if self.sketch is None or self.sums is None:
            return None
        return self.sketch.sides(self.sums.low, self.sums.high, self.sums.count)

    def merge(self, other: TensorRecord) -> TensorRecord:
        """Return the record of all values of both; what only one of them holds, or of other channels, is dropped."""
        if not (self.count and other.count):
            return self if self.count else other
        histogram, sums, sketch = None, None, None
        if self.histogram is not None and other.histogram is not None:
            histogram = self.histogram.merge(other.histogram)
        if self.sums is not None and other.sums is not None and self.sums.low.size == other.sums.low.size:
            sums = self.sums.merge(other.sums)
        if self.sketch is not None and other.sketch is not None and sums is not None:
            sketch = self.sketch.merge(other.sketch)
        low, high = min(self.low, other.low), max(self.high, other.high)
        votes: Votes = {}
        if self._ballot(low) == other._ballot(low):
            votes = {key: self.votes.get(key, 0) + other.votes.get(key, 0) for key in {*self.votes, *other.votes}}
        count = self.count + other.count
        return TensorRecord(low, high, count, histogram, sums, sketch, dict(sorted(votes.items())))

    def votes_on(self, kind: IntType, *, unsigned: bool) -> bool:
        """True if its samples voted on scales of this storage type, and where never negative on unsigned ones."""
        zeros = self._ballot(self.low)
        wanted = {kind.center, kind.qmin} if unsigned and self.low >= 0 else {kind.center}
        return max(zeros, default=None) == kind.center and wanted <= zeros

    def _ballot(self, low: float) -> Set[int]:
        """Return the zero points voted on: of what is negative in some samples, `low` in all, the center alone."""
        zeros = {zero for zero, _ in self.votes}
        return zeros if low >= 0 else {max(zeros)} if zeros else zeros


@dataclass(frozen=True, eq=False)
class AppliedScales:
    """The equalization of the model that statistics are of.

    Attributes:
        model_hash: `fingerprint.model_hash` of the folded model before it.
        request: The options that shaped it.
        recipe: The whole recipe it was found with; empty where merged statistics had several.
        method: The solver.
        steps: Its sweeps or evaluations.
        z: (classes,) log-scales.
        ranges: The ranges the solver chose; None if it chose none.
    """

    model_hash: str
    request: str
    recipe: str
    method: str
    steps: int
    z: Array
    ranges: ChosenRanges | None = None


@dataclass(frozen=True, eq=False)
class TensorStats:
    """The result of a calibration pass.

    Attributes:
        samples: Samples seen.
        tensors: Record of each tensor, by value name.
        synthetic: True if no data was given and inputs were made up.
        model_hash: `fingerprint.model_hash` of the model that was run, empty if nobody asked.
        averaged: The ranges are moving averages, which depend on the order of the samples.
        recounted: Full counts of the tensors whose sampled ones left the choice of a scale in doubt.
        scales: How the model was equalized before it was run, None if it was not or nobody asked.
        exact: All histograms are known to count every element.
    """

    samples: int
    tensors: Mapping[str, TensorRecord]
    synthetic: bool = False
    model_hash: str = ""
    averaged: bool = False
    recounted: Mapping[str, DyadicHistogram] = field(default_factory=dict)
    scales: AppliedScales | None = None
    exact: bool = False

    def histogram(self, name: str) -> DyadicHistogram | None:
        """Return the best histogram there is of a tensor."""
        return self.recounted.get(name) or self.tensors[name].histogram

    def merge(self, *others: TensorStats) -> TensorStats:
        """Return the statistics of the union of the samples.

        Recounts and ranges are dropped: which tensors are in doubt, and what noise costs, depends on all samples.

        Raises:
            DataError: They are of different models or tensors, or hold moving averages, which cannot be merged.
        """
        return _merged([self, *others])

    def disjoint(self, other: TensorStats) -> TensorStats:
        """Return the statistics of the same samples for the tensors of both."""
        return TensorStats(
            self.samples,
            {**self.tensors, **other.tensors},
            self.synthetic,
            self.model_hash,
            self.averaged,
            {**self.recounted, **other.recounted},
            self.scales,
            self.exact and other.exact,
        )


def _merged(parts: Iterable[TensorStats]) -> TensorStats:
    """Return the statistics of the union of the parts' samples; see `TensorStats.merge`."""
    first, *rest = parts
    tensors = dict(first.tensors)
    samples = first.samples
    for part in rest:
        if part.model_hash != first.model_hash:
            raise DataError("The calibration statistics are of different models and cannot be merged.")
        if part.averaged or first.averaged:
            raise DataError("Moving averages depend on the order of the samples and cannot be merged.")
        if part.tensors.keys() != tensors.keys():
            name = min(part.tensors.keys() ^ tensors.keys())
            raise DataError(f"The calibration statistics cannot be merged: only one of them has tensor '{name}'.")
        tensors = {name: record.merge(part.tensors[name]) for name, record in tensors.items()}
        samples += part.samples
    synthetic = first.synthetic or any(p.synthetic for p in rest)
    scales = first.scales
    if scales is not None:
        same = all(p.scales is not None and p.scales.recipe == scales.recipe for p in rest)
        scales = replace(scales, ranges=None, recipe=scales.recipe if same else "")
    exact = first.exact and all(p.exact for p in rest)
    return TensorStats(samples, tensors, synthetic, first.model_hash, first.averaged, scales=scales, exact=exact)
