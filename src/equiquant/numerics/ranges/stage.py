"""log J of `ranges.noise` for a whole network, and its gradient: what the solver evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.ranges.noise import RangeNoise, WeightRange
from equiquant.numerics.ranges.tensors import RangeTensors
from equiquant.numerics.ranges.weights import RangeWeights

__all__ = ["RangeStage"]

Array = npt.NDArray[Any]

KEEP = 0.3  # weights below this fraction of the range cannot be clipped within a stage, and are left out of it
SMALLEST = float(np.finfo(np.float64).tiny)  # J of what reaches no output: its log is finite, and flat


class RangeStage:
    """log J and its gradient over (z, log ranges), with the weights that may be clipped picked at the start.

    Args:
        weights: The weights.
        tensors: Activations and biases.
        z: (classes,) log-scales at the start.
        logs: (ranges,) logs of the range ends there: weights first, then each tensor's sides.
    """

    def __init__(self, weights: Sequence[WeightRange], tensors: Sequence[RangeNoise], z: Array, logs: Array) -> None:
        least = KEEP * np.exp(logs)
        self._classes, self._split = z.size, len(weights)
        self._weights = RangeWeights(weights, z, least[: self._split]) if weights else None
        self._tensors = RangeTensors(tensors, z, least[self._split :]) if tensors else None

    def __call__(self, point: Array) -> tuple[float, Array]:
        """Return log J and its gradient at (z, log range ends)."""
        z, ends = point[: self._classes], np.exp(point[self._classes :])
        gradient = np.zeros_like(point)
        to_z, to_ends = gradient[: self._classes], gradient[self._classes :]
        grown, value = np.exp(z), 0.0
        faded = 1 / grown
        if self._weights is not None:
            part, to_ends[: self._split] = self._weights.add(grown, faded, ends[: self._split], to_z)
            value += part
        if self._tensors is not None:
            part, to_ends[self._split :] = self._tensors.add(faded, ends[self._split :], to_z)
            value += part
        value = max(value, SMALLEST)
        return float(np.log(value)), gradient / value

    def curvature(self, point: Array) -> Array:
        """Return J's second derivatives over J at (z, log range ends), those of clipping by Gauss and Newton."""
        z, ends = point[: self._classes], np.exp(point[self._classes :])
        curvature = np.zeros_like(point)
        of_z, of_ends = curvature[: self._classes], curvature[self._classes :]
        grown = np.exp(z)
        faded = 1 / grown
        if self._weights is not None:
            of_ends[: self._split] = self._weights.bend(grown, faded, ends[: self._split], of_z)
        if self._tensors is not None:
            of_ends[self._split :] = self._tensors.bend(faded, ends[self._split :], of_z)
        return np.asarray(curvature / np.exp(self(point)[0]))
