"""The range whose quantized distribution tells most of the original: least Kullback-Leibler divergence KL(P || Q).

The values are counted in `bins` equal bins over ±max|x|. For each candidate T, P is the distribution within ±T with
what lies beyond added to its outermost bins; Q is the same without what lies beyond, quantized to groups of bins, one
a level of the grid, each spread evenly over those of its bins that are not empty in P. Empty bins of either get a small
count, so that the divergence is finite.
Source: Migacz, "8-bit inference with TensorRT", GTC 2017; onnxruntime quantization, `EntropyCalibrater`. Unlike there,
the levels are those of the tensor's own type, not 128, for fewer would ask for a cut that the grid does not need; at
most `CANDIDATES` values of T are tried, evenly spaced, and every bin of the last group takes part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.affine import IntType
from equiquant.numerics.statistics.histogram import DyadicHistogram

__all__ = ["entropy_cuts", "entropy_range"]

Array = npt.NDArray[Any]

ENTROPY_BINS = 128  # as in onnxruntime; the 2048 of the source want far more values than a calibration often has
CANDIDATES = 128
SMOOTHING = 1e-4  # count given to an empty bin


def entropy_cuts(kind: IntType, bins: int | None) -> bool:
    """Return whether there is anything to choose for a type: more bins than it has levels, None for the default."""
    return (bins or ENTROPY_BINS) > _levels(kind)


def entropy_range(
    data: DyadicHistogram, kind: IntType, *, symmetric: bool, bins: int | None = None
) -> tuple[float, float]:
    """Return (low, high), real units, within the smallest and largest value.

    Args:
        data: The values.
        kind: The type they are quantized to.
        symmetric: Its levels are spread over ±max|x| instead of from the smallest to the largest value, 0 included.
        bins: Bins over ±max|x|, None for `ENTROPY_BINS`; where they are no more than levels there is nothing to choose
            and the range is min-max. More than the histogram has tell nothing further, and count as so many.
    """
    bins = min(bins or ENTROPY_BINS, data.counts.size)
    bound = max(-data.low, data.high)
    if bound <= 0:
        return 0.0, 0.0
    span = 2 * bound if symmetric else max(data.high, 0.0) - min(data.low, 0.0)
    levels = round(_levels(kind) * 2 * bound / span)  # over ±max|x|
    edges = np.linspace(-bound, bound, bins + 1)
    reached = np.rint(np.interp(edges, data.edges(), np.concatenate([[0], np.cumsum(data.counts)])))
    reached[-1] = data.total  # the largest value lies on the last edge
    counts = np.diff(reached)
    widest = bins // 2
    first = min(levels // 2, widest)
    halves = np.unique(np.linspace(widest, first, CANDIDATES).round().astype(np.int64))[::-1]  # widest first
    divergences = [_divergence(counts, widest - half, bins - widest + half, levels) for half in halves]
    limit = float(edges[bins - widest + halves[int(np.argmin(divergences))]])
    return max(data.low, -limit), min(data.high, limit)


def _levels(kind: IntType) -> int:
    return kind.qmax - kind.qmin + 1


def _divergence(counts: Array, start: int, stop: int, levels: int) -> float:
    """Return KL(P || Q) for the range of the bins `start` to `stop`, infinite where Q says nothing."""
    inside = counts[start:stop]
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    filled = p > 0
    starts = np.arange(min(levels, p.size)) * (p.size // min(levels, p.size))
    sizes = np.diff(np.append(starts, p.size))
    share = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled.astype(np.float64), starts), 1)
    q = np.where(filled, np.repeat(share, sizes), 0.0)
    if not q.any():
        return float("inf")
    p, q = _smoothed(p), _smoothed(q)
    return float(np.dot(p, np.log(p / q)))


def _smoothed(counts: Array) -> Array:
    """Return the distribution of the counts, none of them zero."""
    smooth = np.where(counts > 0, counts, SMOOTHING)
    result: Array = smooth / smooth.sum()
    return result
