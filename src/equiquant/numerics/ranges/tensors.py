"""Rounding and clipping of all activations and biases of a network at once, with its gradient; see `ranges.noise`.

Channels of all tensors lie end to end, and so do the magnitudes of their sketches that may be clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.ranges.noise import RangeNoise
from equiquant.numerics.segments import Segments

__all__ = ["RangeTensors"]

Array = npt.NDArray[Any]


class RangeTensors:
    """J of the activations and biases.

    Args:
        tensors: The tensors.
        z: (classes,) log-scales where the large magnitudes are picked.
        least: (sides of all tensors,) what counts as large there.
    """

    def __init__(self, tensors: Sequence[RangeNoise], z: Array, least: Array) -> None:
        sides = [(owner, side) for owner, tensor in enumerate(tensors) for side in tensor.sides]
        self._ids = np.concatenate([t.ids for t in tensors])
        self._gain = np.concatenate([t.gain for t in tensors])
        self._terms = Segments([t.ids.size for t in tensors])
        self._levels = np.array([t.levels for t in tensors])
        self._owner = np.array([owner for owner, _ in sides])
        self._reach = np.array([tensors[owner].reach(z) for owner, _ in sides])
        starts = np.cumsum([0, *self._terms.sizes[:-1]])
        picked = []
        for index, (owner, (values, share, _)) in enumerate(sides):
            tensor = tensors[owner]
            table = np.broadcast_to(values, share.shape)
            reach = np.minimum(least[index] * np.exp(-z[tensor.ids]), tensor.bound)
            channel, place = np.nonzero((share > 0) & (table > reach[:, None]))
            size = table[channel, place]
            weight = tensor.clip_gain[channel] * share[channel, place]
            side = np.full(channel.size, index)
            picked.append((side, starts[owner] + channel, size, weight, np.minimum(size, tensor.bound)))
        columns = [np.concatenate(column) for column in zip(*picked, strict=True)]
        self._side, self._channel, self._size, self._weight, self._kept = columns

    def add(self, faded: Array, ends: Array, gradient: Array) -> tuple[float, Array]:
        """Return J and its slopes by the log ends; add its gradient by z.

        Args:
            faded: (classes,) e^{−z}.
            ends: (sides,) end of each range.
            gradient: (classes,) to add to.
        """
        fade, width, each = self._rounding(faded, ends)
        rounding = self._terms.sum(each)
        limit = np.minimum(ends, self._reach).take(self._side) * fade.take(self._channel)
        off = np.minimum(self._size, limit) - self._kept
        weighted = self._weight * off
        pull = np.where(self._size > limit, 2 * weighted * limit, 0.0)
        pulled = np.bincount(self._channel, pull, minlength=fade.size)
        gradient -= np.bincount(self._ids, 2 * each + pulled, minlength=gradient.size)
        slopes = 2 * (rounding / width).take(self._owner) * ends
        slopes += np.where(ends < self._reach, np.bincount(self._side, pull, minlength=ends.size), 0.0)
        return float(rounding.sum() + (weighted * off).sum()), slopes

    def bend(self, faded: Array, ends: Array, curvature: Array) -> Array:
        """Return J's second derivatives by the log ends; add those by z. Clipping counts by Gauss and Newton.

        Args:
            faded: (classes,) e^{−z}.
            ends: (sides,) end of each range.
            curvature: (classes,) to add to.
        """
        fade, width, each = self._rounding(faded, ends)
        limit = np.minimum(ends, self._reach).take(self._side) * fade.take(self._channel)
        bent = np.where(self._size > limit, 2 * self._weight * limit**2, 0.0)
        to_ids = 4 * each + np.bincount(self._channel, bent, minlength=fade.size)
        curvature += np.bincount(self._ids, to_ids, minlength=curvature.size)
        share = ends / width.take(self._owner)
        bends = 2 * self._terms.sum(each).take(self._owner) * share * (1 + share)
        return np.asarray(bends + np.where(ends < self._reach, np.bincount(self._side, bent, minlength=ends.size), 0.0))

    def _rounding(self, faded: Array, ends: Array) -> tuple[Array, Array, Array]:
        """Return e^{−z} of the channels, the width of each tensor's range, and the rounding noise by channel."""
        fade = faded.take(self._ids)
        width = np.bincount(self._owner, ends, minlength=self._levels.size)
        return fade, width, self._terms.spread((width / self._levels) ** 2 / 12) * self._gain * fade**2
