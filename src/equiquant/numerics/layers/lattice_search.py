"""Integers for triangular systems, column by column, the best few candidates of every row going on (K-best search).

The cost of a row is Σ_j ((w_j − q_j s_j) / U_jj)², where w_j holds what the columns before have handed on. Every
candidate tries the two integers nearest to w_j; of all that makes, the ones of least cost so far go on. With a single
candidate this is Babai's nearest plane, which is what GPTQ does.

Columns come in blocks: what the columns before a block hand on to it is one product of matrices, and within it each
choice is handed on at once. float32 is enough, in units in which numbers are near 1: only candidates of nearly the
same cost could change places.
Source: Guo and Nilsson, IEEE J. Sel. Areas Commun. 24 (2006), p. 491 (K-best); Babai, Combinatorica 6 (1986), p. 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["search", "width"]

Array = npt.NDArray[Any]

MOST_KEPT = 16  # candidates: four times as many lowered the cost by at most another 0.1 dB
WORK = 1 << 28  # multiplications, M·K² for every candidate, that the search for a layer may take
BLOCK = 128  # columns in a block of a single candidate
SMALLEST_BLOCK = 16


def width(groups: int, rows: int, columns: int) -> int:
    """Return how many candidates a row goes on with: a power of two, fewer of larger layers.

    >>> width(1, 24, 27), width(1, 384, 384), width(1, 512, 4608)
    (16, 4, 1)
    """
    affordable = WORK // max(1, groups * rows * columns**2)
    return min(MOST_KEPT, 1 << max(0, affordable.bit_length() - 1))


def search(exact: Array, upper: Array, grid: Array, low: Array, high: Array) -> Array:
    """Return the integers found.

    Args:
        exact: (G, M, K) M rows of each of G groups, the columns in the order in which they are rounded.
        upper: (G, K, K) U of each group.
        grid: Steps of the columns, (1, 1, K) or (G, M, K), in the units of `exact`.
        low: Smallest integer of each row, (G, M, 1).
        high: Largest one.

    Returns:
        (G, M, K) float64, whole numbers in [low, high].
    """
    groups, rows, size = exact.shape
    most = width(groups, rows, size)
    block = max(BLOCK // most, SMALLEST_BLOCK)
    unit = grid.max(axis=2, keepdims=True)
    exact, grid, upper = exact / unit, grid / unit, upper / np.abs(upper).max(axis=(1, 2), keepdims=True)
    begin, factor, steps, least, highest = (np.asarray(x, np.float32) for x in (exact, upper, grid, low, high))
    lost, cost = np.empty((groups, rows, 1, 0), np.float32), np.zeros((groups, rows, 1), np.float32)
    for start in range(0, size, block):
        end = min(start + block, size)
        handed_on = lost.reshape(groups, cost[0].size, start) @ factor[:, :start, start:end]
        left = begin[:, :, None, start:end] - handed_on.reshape(*cost.shape, end - start)
        part = _Block(left, cost, factor[:, start:end, start:end])
        for j in range(end - start):
            part.round(j, steps[:, :, start + j, None], least, highest, most)
        lost, cost = np.concatenate([_picked(lost, part.origin), part.table], axis=3), part.cost
    best = _picked(lost, cost.argmin(axis=2)[:, :, None])[:, :, 0]
    return np.asarray(np.rint((exact - best @ upper) / grid))


@dataclass(eq=False)
class _Block:
    """The candidates while the columns of one block, B of them, are rounded.

    Attributes:
        table: (G, M, N, B) of N candidates a row: errors over U_jj of the columns rounded, what is left of the others.
        cost: (G, M, N) cost so far.
        upper: (G, B, B) U of the block.
        origin: (G, M, N) which candidate of before the block each comes from.
    """

    table: Array
    cost: Array
    upper: Array

    def __post_init__(self) -> None:
        self.origin = np.broadcast_to(np.arange(self.table.shape[2]), self.table.shape[:3])

    def round(self, j: int, step: Array, low: Array, high: Array, most: int) -> None:
        """Round column j in every way worth while, and keep the best `most` candidates a row."""
        left, pivot = self.table[..., j], self.upper[:, None, None, j, j]
        nearest = np.clip(np.rint(left / step), low, high)
        off = (left - nearest * step) / pivot
        cost = self.cost + off**2
        if most > 1:
            other = np.clip(nearest + np.copysign(np.float32(1), off), low, high)
            away = (left - other * step) / pivot
            farther = np.where(other == nearest, np.float32(np.inf), self.cost + away**2)
            off, cost = self._branch(np.concatenate([off, away], axis=2), np.concatenate([cost, farther], axis=2), most)
        self.cost = cost
        self.table[..., j] = off
        self.table[..., j + 1 :] -= off[..., None] * self.upper[:, None, None, j, j + 1 :]

    def _branch(self, off: Array, cost: Array, most: int) -> tuple[Array, Array]:
        """Go on with the candidates of least cost; return the errors that made them, and their costs."""
        before, made = self.cost.shape[2], cost.shape[2]
        if made > most:
            chosen = np.argpartition(cost, most - 1, axis=2)[..., :most]
            off, cost = _picked(off, chosen), _picked(cost, chosen)
        else:
            chosen = np.broadcast_to(np.arange(made), cost.shape)
        parent = chosen % before
        self.table = _picked(self.table, parent)
        self.origin = _picked(self.origin, parent)
        return off, cost


def _picked(values: Array, which: Array) -> Array:
    """Return candidates `which` (G, M, N) of values (G, M, before, ...)."""
    groups, rows, before, *rest = values.shape
    first = before * np.arange(groups * rows).reshape(groups, rows, 1)
    return np.asarray(values.reshape(groups * rows * before, *rest).take(first + which, axis=0))
