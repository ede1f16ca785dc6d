"""Rounding and clipping of all weights of a network at once, with its gradient; formulas in `ranges.noise`.

The rounding noise needs sums over rows and columns only. Clipping is counted weight by weight, for those that may be
clipped: the large ones, picked at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.parallel import parallel
from equiquant.numerics.ranges.noise import COHERENCE, WeightRange
from equiquant.numerics.scales.flat_weights import FlatWeights

__all__ = ["RangeWeights"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]


class RangeWeights:
    """J of the weights.

    Args:
        weights: The weights.
        z: (classes,) log-scales where the large weights are picked.
        least: (weights,) what counts as large there.
    """

    def __init__(self, weights: Sequence[WeightRange], z: Array, least: Array) -> None:
        self._flat = FlatWeights([w.noise for w in weights])
        found = parallel(lambda pair: _large(pair[0], z, pair[1]), list(zip(weights, least.tolist(), strict=True)))
        row_starts = np.cumsum([0, *self._flat.row_layers.sizes[:-1]])
        column_starts = np.cumsum([0, *self._flat.column_layers.sizes[:-1]])
        self._rows = np.concatenate([start + rows for start, (rows, _, _, _) in zip(row_starts, found, strict=True)])
        self._columns = np.concatenate(
            [start + columns for start, (_, columns, _, _) in zip(column_starts, found, strict=True)]
        )
        self._size = np.concatenate([size for _, _, size, _ in found])
        self._gain = np.concatenate([gain for _, _, _, gain in found])

    def add(self, grown: Array, faded: Array, ends: Array, gradient: Array) -> tuple[float, Array]:
        """Return J and its slopes by the log ends; add its gradient by z.

        Args:
            grown: (classes,) e^z.
            faded: (classes,) e^{−z}.
            ends: (weights,) end of each range.
            gradient: (classes,) to add to.
        """
        flat = self._flat
        columns, rows, power, fade = self._scales(grown, faded, ends)
        each = fade * flat.noise(power)
        rounding = flat.row_layers.sum(each)
        cut, limit = self._clipped(columns, rows, ends)
        over = self._size.take(cut) - limit
        weighted = self._gain.take(cut) * over
        to_rows, to_columns = self._sums(cut, 2 * weighted * limit)
        slopes = 2 * rounding - flat.row_layers.sum(to_rows)
        to_columns = flat.noise_slope(power, fade) - to_columns
        gradient += np.bincount(flat.row_ids, to_rows - 2 * each, minlength=gradient.size)
        gradient += np.bincount(flat.column_ids, to_columns, minlength=gradient.size)
        return float(rounding.sum() + (weighted * over).sum()), slopes

    def bend(self, grown: Array, faded: Array, ends: Array, curvature: Array) -> Array:
        """Return J's second derivatives by the log ends; add those by z. Clipping counts by Gauss and Newton.

        Args:
            grown: (classes,) e^z.
            faded: (classes,) e^{−z}.
            ends: (weights,) end of each range.
            curvature: (classes,) to add to.
        """
        flat = self._flat
        columns, rows, power, fade = self._scales(grown, faded, ends)
        each = fade * flat.noise(power)
        cut, limit = self._clipped(columns, rows, ends)
        to_rows, to_columns = self._sums(cut, 2 * self._gain.take(cut) * limit**2)
        bends = 4 * flat.row_layers.sum(each) + flat.row_layers.sum(to_rows)
        to_columns = to_columns + 2 * flat.noise_slope(power, fade)
        curvature += np.bincount(flat.row_ids, 4 * each + to_rows, minlength=curvature.size)
        curvature += np.bincount(flat.column_ids, to_columns, minlength=curvature.size)
        return np.asarray(bends)

    def _scales(self, grown: Array, faded: Array, ends: Array) -> tuple[Array, Array, Array, Array]:
        """Return e^{z_in} of the columns, e^{−z_out} of the rows, e^{2 z_in}, and Δw²/12 · e^{−2 z_out}."""
        flat = self._flat
        columns, rows = grown.take(flat.column_ids), faded.take(flat.row_ids)
        return columns, rows, columns**2, flat.row_layers.spread((ends / flat.levels) ** 2 / 12) * rows**2

    def _clipped(self, columns: Array, rows: Array, ends: Array) -> tuple[Ids, Array]:
        """Return which of the large weights are clipped, and the size at z = 0 that each is clipped to."""
        limit = (rows * self._flat.row_layers.spread(ends)).take(self._rows) * columns.take(self._columns)
        cut = np.flatnonzero(self._size > limit)
        return cut, limit.take(cut)

    def _sums(self, cut: Ids, values: Array) -> tuple[Array, Array]:
        """Return the sums of clipped weights' values over each row and over each column."""
        rows, columns = self._flat.row_ids.size, self._flat.column_ids.size
        return (
            np.bincount(self._rows.take(cut), values, minlength=rows),
            np.bincount(self._columns.take(cut), values, minlength=columns),
        )


def _large(weight: WeightRange, z: Array, least: float) -> tuple[Ids, Ids, Array, Array]:
    """Return the row, column, |weight| at z = 0 and λ·h of every weight that is larger than `least` at z."""
    places = np.flatnonzero(weight.scaled(z) > least)
    rows, columns = weight.lines(places)
    size = weight.size.reshape(-1).take(places).astype(np.float64)
    return rows, columns, size, COHERENCE * weight.gain(rows, columns)
