"""What samples not seen have beyond the largest value of a channel, told from the values that were seen.

Of n values in no particular order and one more, each is as likely to be the largest: the next one lies beyond those
seen with probability 1/(n + 1), whatever their distribution. By how much follows from the upper tail. Beyond a high
threshold u it is close to exponential with some scale d (Pickands, Annals of Statistics 3, 1975; the generalized Pareto
distribution of shape 0), and then the largest of k values above u lies d·(ln k + γ) above u on average, γ being Euler's
constant (Gumbel, Statistics of Extremes, 1958). u is the highest edge of the sketch's bins that enough values exceed.

An exponential excess has the mean square 2 d². What new samples show is half of that, for tails are a little lighter
(measured on the layers of three networks, docs/cle.md): one value of excess d stands for all. Where a channel has shown
few values, as pooled features have, of which a sample shows one, d is a guess, and no range may end just beyond that
value: there three values stand for half of the exponential, those of its Gauss quadrature (Golub and Welsch,
Mathematics of Computation 23, 1969), and the largest says what a range that ends anywhere would lose. Nor do few values
tell that none lie on the other side of 0: where no channel has shown as many there as a threshold asks for, their tails
are those of the signed values from the mean on, which about half of them exceed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.statistics.sketch import MagnitudeSketch

__all__ = ["FEW_VALUES", "beyond", "untold"]

Array = npt.NDArray[Any]

ENOUGH = 3  # values above the threshold: the fewer, the nearer to the largest
FEW_VALUES = 256  # of a channel: pooled features and outputs, of which a sample shows one
NODES, WEIGHTS = np.polynomial.laguerre.laggauss(3)


def beyond(side: MagnitudeSketch, other: MagnitudeSketch | None = None) -> tuple[Array, Array]:
    """Return magnitudes that stand for what will come beyond each channel's largest, and their shares of all values.

    Args:
        side: One side of a tensor.
        other: The other side, where this one is untold and values may have either sign; None elsewhere.

    Returns:
        (C, K) magnitudes, and (C, K) shares: 0 where the channel has no value on that side, or all at the largest.
    """
    high, scale = _tail(side) if other is None else _signed_tail(side, other)
    excess, part = (NODES, WEIGHTS / 2) if side.count < FEW_VALUES else (np.ones(1), np.ones(1))
    share = np.where(scale > 0, 1 / (side.count + 1), 0.0)
    return np.maximum(high[:, None] + np.outer(scale, excess), 0.0), np.outer(share, part)


def untold(side: MagnitudeSketch) -> bool:
    """True if all channels of a tensor that shows few values have shown too few on this side to tell its tail."""
    return side.count < FEW_VALUES and bool((side.share.sum(axis=1) * side.count < ENOUGH - 0.5).all())


def _tail(side: MagnitudeSketch) -> tuple[Array, Array]:
    """Return the largest magnitude of each channel and the scale of its tail, (C,) each."""
    if not side.edges.size:
        return side.high, np.zeros_like(side.high)
    channels = np.arange(side.high.size)
    above = np.cumsum(side.share[:, ::-1], axis=1)[:, ::-1] * side.count  # values from each edge on
    place = (above >= np.minimum(above[:, :1], ENOUGH)).sum(axis=1) - 1
    exceeding = np.maximum(above[channels, place], 1.0)
    return side.high, np.maximum(side.high - side.edges[place], 0.0) / (np.log(exceeding) + np.euler_gamma)


def _signed_tail(side: MagnitudeSketch, other: MagnitudeSketch) -> tuple[Array, Array]:
    """Return the same of the values of both sides, what is on the other being below 0."""
    nearest = np.where(other.share > 0, other.edges, np.inf).min(axis=1, initial=np.inf)
    all_there = other.share.sum(axis=1) * other.count > other.count - 0.5
    high = np.where(all_there, -nearest, side.high)
    mean = side.share @ side.values - other.share @ other.values
    return high, np.maximum(high - mean, 0.0) / (np.log(max(side.count / 2, 1.0)) + np.euler_gamma)
