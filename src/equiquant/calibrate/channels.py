"""Per-channel figures of a stream of activations: low, high, E x and E x², from running sums in float64.

Sums over the positions of one sample are float32, sums over samples float64, so that the result does not depend on how
samples are batched beyond float64 rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.errors import DataError
from equiquant.numerics.figures import ChannelFigures

__all__ = ["ChannelBuilder"]

Array = npt.NDArray[Any]


class ChannelBuilder:
    """Accumulates `ChannelFigures` along one axis.

    Args:
        name: The tensor, for errors.
        axis: Its channel axis, >= 0.
    """

    def __init__(self, name: str, axis: int) -> None:
        self._name, self._axis = name, axis
        self._count = 0
        self._low: Array | None = None
        self._high: Array = np.zeros(0)
        self._sum: Array = np.zeros(0)
        self._square: Array = np.zeros(0)

    def add(self, x: Array) -> tuple[float, float]:
        """Take in one batch; return its smallest and largest value.

        Raises:
            DataError: The number of channels changed from one sample to the next.
        """
        channels = x.shape[self._axis]
        blocks = x.reshape(int(np.prod(x.shape[: self._axis])), channels, -1)  # (outer, C, inner)
        if self._low is None:
            self._low, self._high = np.full(channels, np.inf), np.full(channels, -np.inf)
            self._sum, self._square = np.zeros(channels), np.zeros(channels)
        elif self._low.size != channels:
            raise DataError(
                f"The tensor '{self._name}' has {channels} channels for one sample and {self._low.size} for another."
            )
        if blocks.shape[2] == 1:  # channels last: reduce over the rows at once
            rows = blocks[:, :, 0]
            low, high = rows.min(axis=0), rows.max(axis=0)
            self._sum += rows.sum(axis=0, dtype=np.float64)
            self._square += np.einsum("oc,oc->c", rows, rows, dtype=np.float64)
        else:
            low, high = blocks.min(axis=2).min(axis=0), blocks.max(axis=2).max(axis=0)
            self._sum += blocks.sum(axis=2).sum(axis=0, dtype=np.float64)
            self._square += np.einsum("oci,oci->oc", blocks, blocks).sum(axis=0, dtype=np.float64)
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self._count += blocks.shape[0] * blocks.shape[2]
        return float(low.min()), float(high.max())

    def result(self) -> ChannelFigures:
        """Return the figures of everything added so far."""
        low = self._low if self._low is not None else np.zeros(0)
        count = max(self._count, 1)
        return ChannelFigures(self._axis, low, self._high, self._sum / count, self._square / count)
