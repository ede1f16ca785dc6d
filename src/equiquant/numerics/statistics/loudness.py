"""How much each sample of an output counts: a few loud ones must not decide for all.

Signal and noise are summed over samples, so that one with a thousand times the power of the others would be all that is
measured: the black bars beside a photo that make a detector all the surer that no face is there. A sample counts with
its power up to 10 medians, and one above that, its signal and its noise alike, as 10 medians: what is lost of it still
counts ten times as much as what is lost of an ordinary one. Where most samples are silent, as of a detector that seldom
finds anything, or there are hardly any, no median tells what is ordinary, and all count with their power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MEDIANS", "Loudness", "by_sample", "sample_powers"]

Array = npt.NDArray[Any]

MEDIANS = 10.0  # of most real networks' outputs no sample has more
FEWEST = 4  # samples with a median worth the name


def sample_powers(values: Array, samples: int) -> Array:
    """Return the sum of squares of what is finite, of each sample; a masked logit of −∞ is no signal.

    Args:
        values: What a network gave for one feed. Integers, which are classes, have no power.
        samples: How many samples the feed holds; where axis 0 is not as long, the values are one sample.
    """
    rows = by_sample(values, samples)
    if values.dtype.kind != "f":
        return np.zeros(len(rows))
    finite = np.isfinite(rows)
    told = rows if finite.all() else np.where(finite, rows, 0)
    powers: Array = np.einsum("ni,ni->n", told, told, dtype=np.float64)
    return powers


def by_sample(values: Array, samples: int) -> Array:
    """Return values as (samples, N); one sample where axis 0 is not as long."""
    rows = values if values.ndim and len(values) == samples else values[None]
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


class Loudness:
    """How much each sample of one output counts.

    Args:
        powers: The samples' powers, an array a feed.

    Attributes:
        times: The power of the loudest sample over that of the median one; 1 where all count with their power.
        loud: How many samples count with less than their power.
        samples: How many there are.
    """

    def __init__(self, powers: Sequence[Array]) -> None:
        found = np.concatenate([*powers, np.zeros(0)])
        middle = float(np.sort(found)[(len(found) - 1) // 2]) if len(found) >= FEWEST else 0.0  # one that there is
        told = middle > 0 and bool(np.isfinite(found).all())
        most = MEDIANS * middle
        self._shares = [most / np.maximum(each, most) if told else np.ones(len(each)) for each in powers]
        self.samples = len(found)
        self.loud = int(sum((share < 1).sum() for share in self._shares))
        self.times = float(found.max()) / middle if self.loud else 1.0

    def weighed(self, values: Array, feed: int) -> Array:
        """Return values of one feed times the root of what its samples count: the same array where all count fully."""
        share = self._shares[feed]
        if (share == 1).all():
            return values
        roots = np.sqrt(share).astype(np.float32)
        return values * (roots.reshape(-1, *(1,) * (values.ndim - 1)) if values.ndim else roots[0])
