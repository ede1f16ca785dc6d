"""All weights of a network end to end: the rounding noise of every output channel at once.

Rows are the output channels of all weights one after another, columns the input channels; `Segments` sum and spread
over the shares of a group and of a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.scales.noise import WeightNoise
from equiquant.numerics.segments import Segments

__all__ = ["FlatWeights"]

Array = npt.NDArray[Any]


class FlatWeights:
    """Weights end to end.

    Args:
        terms: The weights, none empty.

    Attributes:
        row_ids: (rows,) class of each output channel.
        column_ids: (columns,) class of each input channel.
        row_layers: The rows of each weight.
        column_layers: The columns of each weight.
        levels: (weights,) largest integer of each.
    """

    def __init__(self, terms: Sequence[WeightNoise]) -> None:
        shapes = [t.coupling.magnitude.shape for t in terms]
        self.row_ids = np.concatenate([t.coupling.rows.reshape(-1) for t in terms])
        self.column_ids = np.concatenate([t.coupling.columns.reshape(-1) for t in terms])
        self.row_layers = Segments([groups * outputs for groups, outputs, _ in shapes])
        self.column_layers = Segments([groups * inputs for groups, _, inputs in shapes])
        self.levels = np.array([t.levels for t in terms])
        self._row_groups = Segments([outputs for groups, outputs, _ in shapes for _ in range(groups)])
        self._column_groups = Segments([inputs for groups, _, inputs in shapes for _ in range(groups)])
        self._white = np.concatenate([t.white.reshape(-1) for t in terms])
        self._constant = np.concatenate([t.constant.reshape(-1) for t in terms])
        self._deviation = np.concatenate([t.spread.reshape(-1) for t in terms])
        self._mean = np.concatenate([t.mean.reshape(-1) for t in terms])

    def noise(self, power: Array) -> Array:
        """Return Σ_i h[o,i]·power[i] of every row."""
        white = self._row_groups.spread(self._column_groups.sum(self._deviation * power))
        constant = self._row_groups.spread(self._column_groups.sum(self._mean * power))
        return np.asarray(self._white * white + self._constant * constant)

    def noise_slope(self, power: Array, weight: Array) -> Array:
        """Return the derivative of Σ_o weight[o]·noise[o] by half the log of each column's power."""
        white = self._column_groups.spread(self._row_groups.sum(weight * self._white))
        constant = self._column_groups.spread(self._row_groups.sum(weight * self._constant))
        return np.asarray(2 * power * (self._deviation * white + self._mean * constant))
