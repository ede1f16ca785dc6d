"""Weights with one scale a block of consecutive input channels: ŵ = q · s[row, block], q in [−7, 7] or [−127, 127].

A block's largest weight need not be a multiple of its step: of a few steps somewhat smaller than max|w| / qmax, which
clip it, the one with the least Σ (w − ŵ)² is taken. Steps are numbers of the type they are stored in, rounded up so
that this clips nothing: float16 has no more than a few bits for those of small weights.
Source: ONNX operator specification, DequantizeLinear-21 (`block_size`); Frantar et al., arXiv:2210.17323, section 5
(groups); the search over clipped steps is that of Nagel et al., arXiv:2106.08295, section 3.1 (MSE ranges).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.affine import IntType
from equiquant.numerics.layers.rounding import damped, round_rows

__all__ = ["block_steps", "round_blocks"]

Array = npt.NDArray[Any]

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # of max|w| / qmax
ROWS = 1 << 22  # numbers worked on at a time


def block_steps(rows: Array, size: int, kind: IntType, stored_as: npt.DTypeLike = np.float32) -> Array:
    """Return the step of every block, of least squared error.

    Args:
        rows: (M, K) weights, one row an output channel, real units.
        size: Weights in a block; the last block of a row may have fewer.
        kind: A signed type; symmetric, so that its lowest value is not used.
        stored_as: The float type of the steps.

    Returns:
        (M, ceil(K / size)) float32, real units per step, numbers of the type stored; 1 for a block of zeros.
    """
    count = -(-rows.shape[1] // size)
    result = np.empty((len(rows), count), dtype=np.float32)
    at_once = max(1, ROWS // max(1, count * size))
    for start in range(0, len(rows), at_once):
        blocks = _blocked(rows[start : start + at_once], size)
        largest = np.abs(blocks).max(axis=2)
        unit = np.where(largest > 0, largest, 1.0)[:, :, None]  # squares of large weights overflow
        chosen, least = np.ones(largest.shape, dtype=np.float32), np.full(largest.shape, np.inf)
        for shrink in SHRINKS:
            steps = np.where(largest > 0, _stored(largest / kind.qmax * shrink, stored_as), 1.0).astype(np.float32)
            rounded = np.clip(np.rint(blocks / steps[:, :, None]), -kind.qmax, kind.qmax) * steps[:, :, None]
            error = np.square((blocks - rounded) / unit).sum(axis=2, dtype=np.float64)
            chosen = np.where(error < least, steps, chosen)
            least = np.minimum(error, least)
        result[start : start + at_once] = chosen
    return result


def _stored(steps: Array, kind: npt.DTypeLike) -> Array:
    """Return steps as numbers of a float type, none of them smaller, and none 0."""
    near = np.maximum(steps.astype(kind), np.finfo(np.dtype(kind)).smallest_subnormal)
    return np.asarray(np.where(near < steps, np.nextafter(near, np.full_like(near, np.inf)), near))


def round_blocks(rows: Array, steps: Array, size: int, kind: IntType, second: Array | None = None) -> Array:
    """Return the integers that stand for the rows.

    Args:
        rows: (M, K) weights, real units.
        steps: (M, blocks) real units per step.
        size: Weights in a block.
        kind: Storage type; its lowest value is not used.
        second: (K, K) second moments of the inputs that the weights meet; None rounds to nearest.

    Returns:
        (M, K) int8.
    """
    spread = _spread(steps, size, rows.shape[1])
    if second is None:
        return np.clip(np.rint(rows / spread), -kind.qmax, kind.qmax).astype(np.int8)
    found = round_rows(rows[None], damped(second[None]), spread[None], -kind.qmax, kind.qmax)
    return np.asarray(found[0].astype(np.int8))


def _spread(steps: Array, size: int, length: int) -> Array:
    return np.repeat(steps, size, axis=1)[:, :length]


def _blocked(rows: Array, size: int) -> Array:
    """Return (M, K) rows as (M, blocks, size), the last block filled with zeros."""
    missing = -rows.shape[1] % size
    return np.pad(rows, ((0, 0), (0, missing))).reshape(len(rows), -1, size)
