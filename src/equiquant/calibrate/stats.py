"""What calibration remembers of the activations: frozen, small, mergeable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from equiquant.numerics.figures import ChannelFigures
from equiquant.numerics.histogram import DyadicHistogram

__all__ = ["TensorRecord", "TensorStats"]


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """What is known of one tensor.

    Attributes:
        low: Smallest value seen (or the moving average of the smallest).
        high: Largest value seen.
        count: Number of elements seen.
        histogram: Distribution, when a method needs one.
        channels: Per-channel figures, when asked for.
    """

    low: float
    high: float
    count: int
    histogram: DyadicHistogram | None = None
    channels: ChannelFigures | None = None


@dataclass(frozen=True, eq=False)
class TensorStats:
    """The result of a calibration pass.

    Attributes:
        samples: Samples seen.
        tensors: Record of each tensor, by value name.
        synthetic: True if no data was given and inputs were made up.
    """

    samples: int
    tensors: Mapping[str, TensorRecord]
    synthetic: bool = False
