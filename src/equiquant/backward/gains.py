"""The noise gains of one tensor's channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Gains"]


@dataclass(frozen=True, eq=False)
class Gains:
    """Noise power at the outputs, over their signal power, that noise of variance 1 on a channel causes.

    Attributes:
        white: (C,) float64, for independent noise at every position of the channel.
        constant: (C,) float64, for one noise value a sample, the same at all positions of the channel.
        weight: (groups, outputs, inputs) a group, float32, for noise of variance 1 on a weight of the Conv that makes
            the tensor; None where that is not known.
        cut: How many times the noise of what lies beyond given ends is that of independent noise as strong; None where
            no ends are given, or nothing lies beyond them.
    """

    white: npt.NDArray[np.float64]
    constant: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float32] | None = None
    cut: float | None = None
