"""Per-channel figures of a stream of activations: low, high, Σ x, Σ x², and the part of Σ x² that is constant.

Constant is what a sample's mean makes: Σ over samples of (Σ_positions x)² / positions.

An axis whose size differs from sample to sample, like the time of recordings, is no channel axis: then there are none.

Within one sample the positions of a channel are summed in float32 (float64 where channels are last); samples are then
added without rounding (`numerics.exact_sum`). Neither the order nor the batching of the samples changes a bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.calibrate.stats import ChannelSums
from equiquant.numerics.exact_sum import ExactSum

__all__ = ["ChannelBuilder"]

Array = npt.NDArray[Any]

SAFE_SQUARE = 1e15  # magnitudes up to here are squared and summed in float32 without overflow


class ChannelBuilder:
    """Accumulates `ChannelSums` along one axis.

    Args:
        axis: The channel axis, >= 0.

    Attributes:
        uneven: The size of the axis changed from one sample to the next.
    """

    def __init__(self, axis: int) -> None:
        self.uneven = False
        self._axis = axis
        self._count = 0
        self._low: Array | None = None
        self._high: Array = np.zeros(0)
        self._sum, self._square, self._constant = ExactSum(0), ExactSum(0), ExactSum(0)

    def add(self, x: Array, samples: int = 1) -> tuple[float, float]:
        """Take in one batch; return its smallest and largest value.

        Args:
            x: The values, float32 or float64.
            samples: How many samples lie along axis 0; 1 where it is no batch.
        """
        channels = x.shape[self._axis]
        blocks = x.reshape(int(np.prod(x.shape[: self._axis])), channels, -1)  # (outer, C, inner)
        if self._low is None:
            self._low, self._high = np.full(channels, np.inf), np.full(channels, -np.inf)
            self._sum, self._square, self._constant = ExactSum(channels), ExactSum(channels), ExactSum(channels)
        low, high = _extremes(blocks)
        self.uneven |= low.size != self._low.size
        if self.uneven:
            return float(low.min()), float(high.max())
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self._count += blocks.shape[0] * blocks.shape[2]
        smallest, largest = float(low.min()), float(high.max())
        if np.isfinite(smallest) and np.isfinite(largest):  # else the caller refuses the sample
            wide = blocks if max(-smallest, largest) < SAFE_SQUARE else blocks.astype(np.float64)
            for part in np.split(wide, samples) if blocks.shape[2] == 1 and samples > 1 else [wide]:
                self._add_sums(part)
        return smallest, largest

    def _add_sums(self, blocks: Array) -> None:
        if blocks.shape[2] == 1:  # channels last: reduce over the rows at once
            rows = blocks[:, :, 0]
            sums, positions = rows.sum(axis=0, dtype=np.float64)[None], rows.shape[0]
            self._square.add(np.einsum("oc,oc->c", rows, rows, dtype=np.float64)[None])
        else:
            sums, positions = np.einsum("oci->oc", blocks), blocks.shape[2]  # a third of the time of `sum`
            self._square.add(np.einsum("oci,oci->oc", blocks, blocks))
        self._sum.add(sums)
        self._constant.add(np.square(sums) / positions)

    def result(self) -> ChannelSums | None:
        """Return the figures of everything added so far; None if there are no channels."""
        if self.uneven:
            return None
        low = self._low if self._low is not None else np.zeros(0)
        sums = (s.digits() for s in (self._sum, self._square, self._constant))
        return ChannelSums(self._axis, self._count, low, self._high, *sums)


def _extremes(blocks: Array) -> tuple[Array, Array]:
    """Return the smallest and largest value of each channel; `(outer, C, inner)` to two `(C,)`."""
    if blocks.shape[2] == 1:
        return blocks[:, :, 0].min(axis=0), blocks[:, :, 0].max(axis=0)
    flat, starts = blocks.reshape(-1), np.arange(0, blocks.size, blocks.shape[2])  # half the time of min(axis=2)
    low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
    return low.reshape(blocks.shape[:2]).min(axis=0), high.reshape(blocks.shape[:2]).max(axis=0)
