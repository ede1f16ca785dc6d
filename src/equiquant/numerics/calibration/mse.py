"""The range of least squared error under a float scale: Σ (x − x̂)² over the histogram's bins.

Candidates shrink the whole range by equal steps; an asymmetric range then has either end moved alone, the better one
kept. Each candidate is quantized exactly as it will be (`affine.params_from_range`: float32 scale, rounded zero point),
every value of a bin counting as its center.
Source: Nagel et al., arXiv:2106.08295, section 3.1 (MSE range setting by grid search).
"""

from __future__ import annotations

import numpy as np

from equiquant.numerics.affine import IntType, params_from_range
from equiquant.numerics.statistics.histogram import DyadicHistogram

__all__ = ["mse_range"]

STEPS = 64  # candidates of the whole range; of either end alone a quarter as many
SMALLEST = 1 / 16  # of the whole range: below, 8-bit steps come near the width of a bin


def mse_range(data: DyadicHistogram, kind: IntType, *, symmetric: bool) -> tuple[float, float]:
    """Return (low, high), real units, within the smallest and largest value, or their mirror images, and containing 0.

    Args:
        data: The values.
        kind: Storage type.
        symmetric: Zero point at the center; the search then has one dimension.
    """
    low, high = min(data.low, 0.0), max(data.high, 0.0)
    if low == high:
        return 0.0, 0.0
    search = _Search(data, kind, symmetric)
    if symmetric:
        bound = max(-low, high)
        low, high = -bound, bound
    fractions = np.linspace(1.0, SMALLEST, STEPS)
    best = search.best([(low * f, high * f) for f in fractions])
    if not symmetric and low < 0 < high:
        around = 2.0 ** np.linspace(0.75, -0.75, STEPS // 4 + 1)
        best = search.best([(best[0], min(best[1] * f, high)) for f in around])
        best = search.best([(max(best[0] * f, low), best[1]) for f in around])
    return best


class _Search:
    """Squared errors over one histogram."""

    def __init__(self, data: DyadicHistogram, kind: IntType, symmetric: bool) -> None:
        values, weights = data.occupied()
        self._values, self._weights = values.astype(np.float32), weights.astype(np.float64)
        self._width = float(np.ldexp(1.0, data.exponent))
        self._kind, self._symmetric = kind, symmetric

    def best(self, candidates: list[tuple[float, float]]) -> tuple[float, float]:
        """Return the range of least error; of equals the first."""
        lows, highs = np.transpose(candidates)
        params = params_from_range(lows, highs, self._kind, symmetric=self._symmetric)
        errors = [self._error(*one) for one in zip(params.scale, params.zero_point.tolist(), strict=True)]
        return candidates[int(np.argmin(errors))]

    def _error(self, step: np.float32, zero: int) -> float:
        scaled = self._values / step
        levels = np.rint(scaled)
        np.clip(levels, self._kind.qmin - zero, self._kind.qmax - zero, out=levels)
        scaled -= levels
        squared = np.square(scaled, out=scaled)
        if step <= self._width:  # several levels a bin: the center says nothing of the rounding
            squared = np.maximum(squared, np.float32(1 / 12))
        return float(np.dot(self._weights, squared)) * float(step) ** 2
