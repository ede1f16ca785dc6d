"""The product of a row and a column that stands for a matrix of positive numbers, whatever the units of its lines.

Rows and columns are scaled in turn until what is left of the matrix, T[o,i] / (a[o] b[i]), has mean 1 along every line.
So a line times a factor has that factor in a or b, and nothing else changes: a fit of least squares would see the
largest lines only. Source: Sinkhorn and Knopp, Pacific Journal of Mathematics 21, 1967.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["rank_one"]

Array = npt.NDArray[Any]

ROUNDS = 10
LEAST = 1e-6  # of the mean: no number is taken to be less


def rank_one(tables: Array) -> tuple[Array, Array]:
    """Return a (G, P) and b (G, Q) with a[g, o]·b[g, i] about tables[g, o, i], (G, P, Q), not all 0."""
    left = np.maximum(tables, LEAST * tables.mean(dtype=np.float64)).astype(np.float64)
    rows, columns = np.ones(tables.shape[:2]), np.ones((tables.shape[0], tables.shape[2]))
    for _ in range(ROUNDS):
        by_row = left.mean(axis=2)
        left /= by_row[:, :, None]
        by_column = left.mean(axis=1)
        left /= by_column[:, None, :]
        rows *= by_row
        columns *= by_column
    return rows, columns
