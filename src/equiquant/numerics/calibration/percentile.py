"""The range that holds a percentile of all values: what lies beyond is clipped.

Two-sided: (100 − p)/2 percent are cut at either end. Symmetric: p percent of the magnitudes lie within ±T. The
range exceeds the smallest and largest value only where symmetry asks for it.
Source: onnxruntime quantization, `PercentileCalibrater`; Wu et al., arXiv:2004.09602, section 5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.histogram import BINS, DyadicHistogram

__all__ = ["percentile_range"]

Array = npt.NDArray[Any]


def percentile_range(
    data: DyadicHistogram, percent: float, *, symmetric: bool, bins: int | None = None
) -> tuple[float, float]:
    """Return (low, high), real units, each the outer edge of the histogram's bin where the percentile falls.

    Args:
        data: The values.
        percent: In (0, 100]; 100 is min-max.
        symmetric: Cut magnitudes instead of values, low = −high.
        bins: Use this many equal bins over the range instead of the histogram's own, which are finer.
    """
    if not data.total:
        return 0.0, 0.0
    bound = max(-data.low, data.high)
    if symmetric:
        edges = np.ldexp(np.arange(BINS + 1, dtype=np.float64), data.exponent)
        counts = data.counts[BINS:] + data.counts[BINS - 1 :: -1]
        edges, counts = (edges, counts) if bins is None else _coarser(edges, counts, 0.0, bound, bins)
        high = min(_upper(edges, counts, percent / 100), bound)
        return -high, high
    edges, counts = data.edges(), data.counts
    if bins is not None:
        edges, counts = _coarser(edges, counts, data.low, data.high, bins)
    share = 1 - (100 - percent) / 200
    high = _upper(edges, counts, share)
    low = -_upper(-edges[::-1], counts[::-1], share)
    return max(low, data.low), min(high, data.high)


def _upper(edges: Array, counts: Array, share: float) -> float:
    """Return the upper edge of the bin at which the counts reach a share of their sum."""
    reached = np.cumsum(counts)
    index = int(np.searchsorted(reached, share * float(reached[-1])))
    return float(edges[min(index, counts.size - 1) + 1])


def _coarser(edges: Array, counts: Array, low: float, high: float, bins: int) -> tuple[Array, Array]:
    """Return `bins` equal bins over [low, high]; a bin that straddles an edge is shared in proportion."""
    if high <= low:
        return edges, counts
    wanted = np.linspace(low, high, bins + 1)
    reached = np.interp(wanted, edges, np.concatenate([[0], np.cumsum(counts)]))
    reached[0], reached[-1] = 0, counts.sum()
    return wanted, np.diff(reached)
