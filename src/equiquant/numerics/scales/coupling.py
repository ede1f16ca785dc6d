"""What a solver sees of a network: matrices of weight magnitudes between classes of channels.

`Coupling` is one weight. M[g, o, i] = max over the kernel of |W|, in groups g; row (g, o) belongs to output class
`rows[g, o]`, column (g, i) to input class `columns[g, i]`. With log-scales z the weight becomes
M'[g, o, i] = M[g, o, i] · e^(z[rows[g, o]] − z[columns[g, i]]) and its bias b' = b · e^(z[rows]).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST_LOG_SCALE", "Coupling", "grouped", "magnitudes"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

LARGEST_LOG_SCALE = float(np.log(1e4))  # a channel moves by at most a factor of 10⁴


@dataclass(frozen=True, eq=False)
class Coupling:
    """One weight between classes of channels.

    Attributes:
        magnitude: (G, P, Q) float32, largest |weight| over the kernel.
        rows: (G, P) class of each output channel.
        columns: (G, Q) class of each input channel.
        bias: (G, P) float32 |bias|, or None.
    """

    magnitude: Array
    rows: Ids
    columns: Ids
    bias: Array | None = None


def magnitudes(weight: Array, groups: int, out_axis: int) -> Array:
    """Return M (G, O/G, I/G) of a weight with its two channel axes first and the kernel behind them.

    Args:
        weight: (O, I/G, k…) with `out_axis` 0, or (I, O/G, k…) with `out_axis` 1. A vector of G elements is a diagonal.
        groups: G.
        out_axis: Axis of the output channels.
    """
    if weight.size == groups:
        return np.abs(weight).reshape(groups, 1, 1).astype(np.float32, copy=False)
    flat = weight.reshape(*weight.shape[:2], math.prod(weight.shape[2:]))
    largest = np.abs(flat[:, :, 0])
    for tap in range(1, flat.shape[2]):  # many times faster than reducing along so short an axis
        np.maximum(largest, np.abs(flat[:, :, tap]), out=largest)
    grouped = largest.reshape(groups, largest.shape[0] // groups, largest.shape[1]).astype(np.float32, copy=False)
    return grouped if out_axis == 0 else grouped.transpose(0, 2, 1)


def grouped(weight: Array, groups: int, out_axis: int) -> Array:
    """Return |W| as (G, O/G, I/G, taps), float32; see `magnitudes` for the arguments."""
    if weight.size == groups:
        return np.abs(weight).reshape(groups, 1, 1, 1).astype(np.float32, copy=False)
    flat = np.abs(
        weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], math.prod(weight.shape[2:]))
    ).astype(np.float32, copy=False)
    return flat if out_axis == 0 else flat.swapaxes(1, 2)
