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
Mathematics of Computation 23, 1969), and the largest says what a range that ends anywhere would lose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.sketch import MagnitudeSketch

__all__ = ["FEW_VALUES", "beyond"]

Array = npt.NDArray[Any]

ENOUGH = 3  # values above the threshold: the fewer, the nearer to the largest
FEW_VALUES = 256  # of a channel: pooled features and outputs, of which a sample shows one
NODES, WEIGHTS = np.polynomial.laguerre.laggauss(3)


def beyond(side: MagnitudeSketch) -> tuple[Array, Array]:
    """Return magnitudes that stand for what will come beyond each channel's largest, and their shares of all values.

    Args:
        side: One side of a tensor.

    Returns:
        (C, K) magnitudes, and (C, K) shares: 0 where the channel has no value on that side, or all at the largest.
    """
    channels = np.arange(side.high.size)
    if not side.edges.size:
        return side.high[:, None], np.zeros((channels.size, 1))
    above = np.cumsum(side.share[:, ::-1], axis=1)[:, ::-1] * side.count  # values from each edge on
    place = (above >= np.minimum(above[:, :1], ENOUGH)).sum(axis=1) - 1
    exceeding = np.maximum(above[channels, place], 1.0)
    scale = np.maximum(side.high - side.edges[place], 0.0) / (np.log(exceeding) + np.euler_gamma)
    excess, part = (NODES, WEIGHTS / 2) if side.count < FEW_VALUES else (np.ones(1), np.ones(1))
    share = np.where(scale > 0, 1 / (side.count + 1), 0.0)
    return side.high[:, None] + np.outer(scale, excess), np.outer(share, part)
