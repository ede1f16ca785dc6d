"""What a power-of-two scale costs: its squared error over the square of the values, the relative noise of a tensor.

It is measured on an array or a histogram. Where only the ends of the range are known, values count as spread evenly
between them. What is added, a bias or the operand of an Add, counts against the square of the sum; what is averaged
by a pool, against the square of the average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.affine import QuantParams
from equiquant.numerics.calibration.pow2 import squared_errors
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.target.choosing.ranges import Evidence

__all__ = ["Cost", "Use", "from_table", "power", "relative_noise", "summed"]

Array = npt.NDArray[Any]
Cost = Callable[[int], float]
"""From the exponent of a scale to its noise over the signal."""

EVEN = 4097  # values that stand for a range of which nothing but the ends is known
LARGE = 1 << 16  # numbers above which their histogram is looked at
FARTHEST = 8  # steps beyond a table that still make a difference


@dataclass(frozen=True)
class Use:
    """What becomes of a tensor's noise.

    Attributes:
        signal: Mean square that the noise is compared with; None for the tensor's own.
        averaged: Number of values it is averaged over; what was clipped has one sign and does not average out.
    """

    signal: float | None = None
    averaged: int = 1


def relative_noise(data: Array | Evidence, params: QuantParams, use: Callable[[], Use] = Use) -> Cost:
    """Return the noise of any scale for a tensor.

    Args:
        data: The tensor, or what is known of it.
        params: Its type and zero point.
        use: Asked for what becomes of the noise, once it matters.
    """
    values: list[Array | DyadicHistogram] = []  # made on first use

    def cost(exponent: int) -> float:
        if not values:
            values.append(_values(data))
        zero = int(params.zero_point)
        errors, own = squared_errors(values[0], np.array([exponent]), params.type, zero_point=zero)
        found = use()
        rounding = min(float(errors[0]), 4.0**exponent / 12)
        noise = float(errors[0]) - rounding + rounding / found.averaged
        reference = found.signal or own
        return noise / reference if reference > 0 else 0.0

    return cost


def from_table(table: Mapping[int, float]) -> Cost:
    """Return the cost a table gives; every step away from its entries costs four times as much."""

    def cost(exponent: int) -> float:
        nearest = min(table, key=lambda entry: abs(entry - exponent))
        return table[nearest] * 4.0 ** min(abs(exponent - nearest), FARTHEST)

    return cost


def summed(costs: list[Cost]) -> Cost:
    """Return the cost of one scale for several tensors."""
    return costs[0] if len(costs) == 1 else lambda exponent: sum(cost(exponent) for cost in costs)


def power(evidence: Evidence) -> float:
    """Return the mean square of a tensor."""
    values = _values(evidence)
    if isinstance(values, DyadicHistogram):
        centers, counts = values.occupied()
        return float(counts @ np.square(centers)) / max(float(counts.sum()), 1.0)
    return float(np.square(values).mean()) if values.size else 0.0


def _values(data: Array | Evidence) -> Array | DyadicHistogram:
    if not isinstance(data, Evidence):
        return DyadicHistogram.of(data) if data.size > LARGE else data
    return np.linspace(data.low, data.high, EVEN) if data.histogram is None else data.histogram
