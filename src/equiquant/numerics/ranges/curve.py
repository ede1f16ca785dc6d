"""The noise of one weight or tensor as a function of one end of its range, the channels staying where they are.

At fixed log-scales rounding noise is proportional to the square of the range's width, and clipping noise is

    Σ w (min(s, T) − k)² = T² Σ_{s>T} w − 2T Σ_{s>T} w·k + Σ_{s>T} w·k² + Σ_{s≤T} w (s − k)²

with s the magnitudes in units of the range, k what they should be there (s, or the bound of a Clip) and w their noise
gains: four sums over what lies between two neighbouring ends serve any number of ends T. Formulas: `ranges.noise`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.ranges.noise import COHERENCE, RangeNoise, WeightRange
from equiquant.numerics.scales.flat_weights import FlatWeights

__all__ = ["tensor_curve", "weight_curve"]

Array = npt.NDArray[Any]

PIECE = 1 << 17  # weights at a time, so that a large layer needs little memory


def weight_curve(weight: WeightRange, z: Array, tries: Array) -> Array:
    """Return the noise of a weight at z for each range end of `tries`, (tries,)."""
    flat = FlatWeights([weight.noise])
    fade, power = np.exp(-2 * z[flat.row_ids]), np.exp(2 * z[flat.column_ids])
    noise = (tries / flat.levels) ** 2 / 12 * (fade * flat.noise(power)).sum()
    size = weight.scaled(z).reshape(-1)
    large = np.flatnonzero(size > tries.min())
    for start in range(0, large.size, PIECE):
        places = large[start : start + PIECE]
        rows, columns = weight.lines(places)
        gain = weight.gain(rows, columns) * fade.take(rows) * power.take(columns)
        piece = size.take(places).astype(np.float64)
        noise += COHERENCE * _clipped(piece, piece, gain, tries)
    return np.asarray(noise)


def tensor_curve(tensor: RangeNoise, z: Array, ends: Array, side: int, tries: Array) -> Array:
    """Return the noise of a tensor at z for each end of `tries` of one side, (tries,); the other side keeps its end."""
    local = z[tensor.ids]
    fade = np.exp(-2 * local)
    gain, clip_gain = tensor.gain * fade, tensor.clip_gain * fade
    width = ends.sum() - ends[side] + tries
    noise = (width / tensor.levels) ** 2 / 12 * gain.sum()
    for index, (values, share, _) in enumerate(tensor.sides):
        channel, place = np.nonzero(share)
        size = np.broadcast_to(values, share.shape)[channel, place]
        grown = np.exp(local)[channel]
        kept = np.minimum(size, tensor.bound) * grown
        at = np.minimum(tries if index == side else ends[index : index + 1], tensor.reach(z))
        noise += _clipped(size * grown, kept, clip_gain[channel] * share[channel, place], at)
    return np.asarray(noise)


def _clipped(size: Array, kept: Array, weight: Array, ends: Array) -> Array:
    """Return Σ weight (min(size, end) − kept)² for each end."""
    order = np.argsort(ends)
    above = np.searchsorted(ends[order], size)  # how many ends lie below each magnitude
    bins = ends.size + 1
    sums = [np.bincount(above, weight * kept**power, minlength=bins)[::-1].cumsum()[::-1][1:] for power in (0, 1, 2)]
    within = np.bincount(above, weight * (size - kept) ** 2, minlength=bins).cumsum()[:-1]
    found = np.empty(ends.size)
    found[order] = sums[2] - 2 * ends[order] * sums[1] + ends[order] ** 2 * sums[0] + within
    return found
