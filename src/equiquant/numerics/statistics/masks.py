"""Masks that are added to numbers: −10000 on every move that is not legal, far below all that are.

A mask is known by its numbers: some are negative, the same but for what they were added to, and far from all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["masked"]

Array = npt.NDArray[Any]

FAR = 64.0  # times the size of what it leaves
SAME = 0.01  # of its size, what it is added to


def masked(values: Array, least: float) -> Array | None:
    """Return which values a mask has made, a bool for each; None where there is no mask.

    Args:
        values: Finite numbers.
        least: The least of them.
    """
    mask: Array = values < (1 - SAME) * least
    alone = bool((np.abs(values[~mask]) * FAR <= -least).all())
    return mask if alone and mask.any() else None
