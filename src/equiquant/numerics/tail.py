"""What samples not seen have beyond the largest value of a channel, told from the values that were seen.

Of n values in no particular order and one more, each is as likely to be the largest: the next one lies beyond those
seen with probability 1/(n + 1), whatever their distribution. By how much follows from the upper tail. Beyond a high
threshold u it is close to exponential with some scale d (Pickands, Annals of Statistics 3, 1975; the generalized Pareto
distribution of shape 0), and then the largest of k values above u lies d·(ln k + γ) above u on average, γ being Euler's
constant (Gumbel, Statistics of Extremes, 1958). u is the highest edge of the sketch's bins that enough values exceed.

An exponential excess has the mean square 2 d². What new samples show is half of that, for tails are a little lighter:
one value of excess d stands for all (measured on the layers of three networks, docs/cle.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.sketch import MagnitudeSketch

__all__ = ["beyond"]

Array = npt.NDArray[Any]

ENOUGH = 3  # values above the threshold: the fewer, the nearer to the largest


def beyond(side: MagnitudeSketch) -> tuple[Array, Array]:
    """Return the magnitude that stands for what is to come beyond each channel's largest, and its share of all values.

    Args:
        side: One side of a tensor.

    Returns:
        (C,) magnitudes, and (C,) shares: 0 where the channel has no value on that side, or all at the largest.
    """
    channels = np.arange(side.high.size)
    if not side.edges.size:
        return side.high, np.zeros(channels.size)
    above = np.cumsum(side.share[:, ::-1], axis=1)[:, ::-1] * side.count  # values from each edge on
    place = (above >= np.minimum(above[:, :1], ENOUGH)).sum(axis=1) - 1
    exceeding = np.maximum(above[channels, place], 1.0)
    scale = np.maximum(side.high - side.edges[place], 0.0) / (np.log(exceeding) + np.euler_gamma)
    share = np.where(scale > 0, 1 / (side.count + 1), 0.0)
    return side.high + scale, share
