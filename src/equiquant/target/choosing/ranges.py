"""From what is known of a tensor's values to the scale and zero point of an activation.

Min-max takes the whole range; asymmetric types get it widened to contain 0, so that zero padding is exact. Power-of-two
scales are symmetric: the zero point is the type's center, or its smallest integer for a tensor that is never negative
when the recipe says `unsigned_relu`. The exponent is the one of least squared error, or the smallest without overflow
(`calibration.pow2`). Percentile, entropy and MSE cut the range under a float scale (the numerics module of each name);
MSE also where the method is noise and the solver chose no range.
Source: Nagel et al., arXiv:2106.08295, section 2; AMD Quark documentation, `PowerOfTwoMethod`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.accumulate import HISTOGRAM_LIMIT
from equiquant.calibrate.methods import HISTOGRAM_METHODS
from equiquant.calibrate.stats import TensorRecord, Votes
from equiquant.errors import DataError
from equiquant.numerics.affine import QuantParams, params_from_range, power_of_two_params
from equiquant.numerics.calibration.entropy import entropy_range
from equiquant.numerics.calibration.mse import mse_range
from equiquant.numerics.calibration.percentile import percentile_range
from equiquant.numerics.calibration.pow2 import minmse_exponent, minmse_margin, nonoverflow_exponent
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.recipe import Recipe
from equiquant.target.table.targets import Target

__all__ = ["Evidence", "activation_params", "in_doubt", "union"]

Array = npt.NDArray[Any]

SAMPLED = HISTOGRAM_LIMIT / 2  # elements a sample contributes to the histogram of a large tensor, at least
DOUBT = 5.0  # standard deviations


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of the values of one tensor or of several that share a scale.

    Attributes:
        low: Smallest value.
        high: Largest value.
        histogram: Distribution, where the method needs one.
        votes: How many samples have each (zero point, exponent) as their own best scale.
    """

    low: float
    high: float
    histogram: DyadicHistogram | None = None
    votes: Votes = field(default_factory=dict)

    @staticmethod
    def of_record(record: TensorRecord, recounted: DyadicHistogram | None = None) -> Evidence:
        """Return the evidence calibration collected, with a full count where there is one."""
        return Evidence(record.low, record.high, recounted or record.histogram, record.votes)

    @staticmethod
    def of_array(array: Array, target: Target) -> Evidence:
        """Return the evidence of a constant."""
        histogram = DyadicHistogram.of(array) if target.method in HISTOGRAM_METHODS else None
        if not array.size:
            return Evidence(0.0, 0.0, histogram)
        return Evidence(float(array.min()), float(array.max()), histogram)

    def clipped(self, low: float, high: float) -> Evidence:
        """Return the evidence with its range cut to the bounds its producer guarantees."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))


def union(parts: Iterable[Evidence]) -> Evidence:
    """Return the evidence of all the values together."""
    parts = list(parts)
    histograms = [p.histogram for p in parts if p.histogram is not None]
    merged = DyadicHistogram.merged(histograms) if len(histograms) == len(parts) else None
    votes: Counter[tuple[int, int]] = Counter()
    for part in parts:
        votes.update(part.votes)
    return Evidence(min(p.low for p in parts), max(p.high for p in parts), merged, votes)


def activation_params(
    evidence: Evidence, target: Target, recipe: Recipe, name: str, *, chosen: bool = False, unsigned: bool = False
) -> QuantParams:
    """Return scale and zero point of an activation, per tensor.

    Args:
        evidence: What is known of its values.
        target: Types and method.
        recipe: `minmse_mode`, `nonoverflow_rounding` and those of the range.
        name: The tensor, for the error.
        chosen: The range was chosen beforehand, on the grid of the target: nothing is searched.
        unsigned: The tensor is never negative and may use the whole range, its zero point the type's smallest integer.

    Raises:
        DataError: The method needs a histogram that calibration did not collect.
    """
    kind, low, high = target.activation, evidence.low, evidence.high
    zero = kind.qmin if unsigned else kind.center
    if chosen and target.scale_kind == "power_of_two":
        return power_of_two_params(max(-low, high), kind, zero)
    if target.method in HISTOGRAM_METHODS and evidence.histogram is None and not chosen:
        raise DataError(
            f"The statistics of '{name}' hold no histogram, which '{target.method}' needs; calibrate again."
        )
    if target.scale_kind == "float":
        symmetric = target.activation_symmetric and not unsigned
        low, high = _float_range(evidence, target, recipe, symmetric=symmetric)
        return params_from_range(low, high, kind, symmetric=symmetric)
    if target.method == "minmse":
        assert evidence.histogram is not None
        exponent = minmse_exponent(evidence.histogram, kind, zero_point=zero)
        if recipe.minmse_mode == "most_common":
            exponent = _most_common(evidence.votes, zero, exponent)
    else:
        exponent = nonoverflow_exponent(low, high, kind, zero_point=zero, rounding=recipe.nonoverflow_rounding)
    return QuantParams.make(np.ldexp(np.float32(1), exponent), zero, kind.name)


def in_doubt(evidence: Evidence, target: Target, samples: int, least: float, *, unsigned: bool = False) -> bool:
    """True if a sampled histogram leaves it open which power of two has the least squared error.

    The squared rounding error of n sampled elements has a relative standard deviation of about 1/√n. Two scales whose
    errors differ by less than `DOUBT` of these, or by less than `least`, are told apart by a full count only.
    """
    if evidence.histogram is None:
        return False
    zero = target.activation.qmin if unsigned else target.activation.center
    margin = minmse_margin(evidence.histogram, target.activation, zero_point=zero)
    return margin < max(least, DOUBT / math.sqrt(SAMPLED * max(samples, 1)))


def _float_range(evidence: Evidence, target: Target, recipe: Recipe, *, symmetric: bool) -> tuple[float, float]:
    low, high = evidence.low, evidence.high
    symmetric = symmetric or recipe.symmetric_ranges
    if evidence.histogram is not None and target.method == "percentile":
        low, high = percentile_range(
            evidence.histogram, recipe.percentile, symmetric=symmetric, bins=recipe.histogram_bins
        )
    elif evidence.histogram is not None and target.method == "entropy":
        low, high = entropy_range(
            evidence.histogram, target.activation, symmetric=symmetric, bins=recipe.histogram_bins
        )
    elif evidence.histogram is not None and target.method in ("mse", "noise"):
        low, high = mse_range(evidence.histogram, target.activation, symmetric=symmetric)
    low, high = max(low, min(evidence.low, 0.0)), min(high, max(evidence.high, 0.0))
    if recipe.symmetric_ranges:
        high = max(abs(low), abs(high))
        low = -high
    return low, high


def _most_common(votes: Votes, zero: int, fallback: int) -> int:
    """Return the exponent most samples have, of equals the coarsest."""
    counts = {exponent: count for (voted, exponent), count in votes.items() if voted == zero}
    return max(counts, key=lambda e: (counts[e], e)) if counts else fallback
