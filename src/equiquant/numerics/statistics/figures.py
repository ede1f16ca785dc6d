"""What a calibration pass says of one tensor's channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

__all__ = ["ChannelFigures"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ChannelFigures:
    """Per-channel figures of one tensor, each float64 of shape `(C,)`, over all samples and positions.

    Attributes:
        axis: The channel axis.
        low: Smallest value.
        high: Largest value.
        mean: E x.
        mean_square: E x².
        constant_square: The part of E x² that is constant within a sample: the mean over samples of (E_sample x)².
    """

    axis: int
    low: Array
    high: Array
    mean: Array
    mean_square: Array
    constant_square: Array
