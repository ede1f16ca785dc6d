"""Rounding weights so that the errors make up for each other on the inputs they meet: OBQ, GPTQ, and a search beyond.

A layer computes w·x for every row w. Rounded to nearest, the error e = w − q costs e H eᵀ with H = E[x xᵀ]. Instead the
columns are rounded one after another, and what each lost is made good by those not yet rounded, as well as it can be:

    with H⁻¹ = Uᵀ U, U upper triangular:    w_rest ← w_rest − (w_j − q_j) / U_jj · U_j,rest

so that e H eᵀ = Σ_j ((w_j − q_j) / U_jj)². GPTQ takes the nearest q_j every time, the nearest plane of a lattice
search; here as there it pays to go on with several candidates a row, those of least cost so far (`lattice_search`).
Then each integer of a clipped row moves once to where e H eᵀ is least: what was clipped late is made good by columns
rounded before.

The columns are ordered from the end: last comes the one that varies least, before it the one that varies least when
those behind it are known, for they are rounded with nothing left to make good for them. H is damped by a fraction of
its mean diagonal, which keeps it invertible and the corrections small where the inputs say little. U comes from one
Cholesky factorization: H = V Vᵀ with V upper triangular (that of the mirrored matrix, mirrored), U = V⁻¹.
Source: Frantar and Alistarh, arXiv:2208.11580 (OBQ); Frantar et al., arXiv:2210.17323 (GPTQ), section 3; Wübben et al.,
Electronics Letters 37 (2001), p. 1348 (the order); Behdin et al., arXiv:2309.01885 (single integers).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.layers.lattice_search import search

__all__ = ["DAMPING", "damped", "regress", "ridged", "round_rows"]

Array = npt.NDArray[Any]

DAMPING = 0.01  # of the mean diagonal, as published
FURTHER = (0.0, 0.1, 1.0)  # of the mean diagonal, where a factorization fails
MOST_ORDERED = 1024  # columns; of more, those of largest energy go first, for the order would take seconds
SMALLEST_PIVOT = 1e-8  # of the largest moment; damping keeps pivots far above, where the matrix has a factor at all
BLOCK = 64  # columns that follow every move of an integer among them
LARGEST_WHOLE = 128  # columns of a triangular matrix up to which it is inverted as a whole
FLOOR = 0.1  # of the mean diagonal: inputs that hardly ever vary are no ground to learn from


def damped(second: Array, damping: float = DAMPING) -> Array:
    """Return (G, K, K) second moments with a fraction of the mean diagonal added to it; an empty one gets 1."""
    size = second.shape[-1]
    level = damping * np.trace(second, axis1=-2, axis2=-1) / size
    result = second.copy()
    index = np.arange(size)
    result[:, index, index] += np.where(level > 0, level, 1.0)[:, None]
    return result


def ridged(second: Array, ridge: float) -> Array:
    """Return (G, K, K) second moments, every diagonal entry grown by `ridge` of itself and some of the mean one."""
    result = damped(second, FLOOR)
    index = np.arange(second.shape[-1])
    result[:, index, index] += ridge * np.diagonal(second, axis1=-2, axis2=-1)
    return result


def regress(products: Array, second: Array) -> Array:
    """Return products · second⁻¹: (G, M, K) · (G, K, K)⁻¹, the second moments damped already."""
    result: Array = np.linalg.solve(second, products.swapaxes(-1, -2)).swapaxes(-1, -2)
    return result


def round_rows(rows: Array, second: Array, steps: Array, low: Array | float, high: Array | float) -> Array:
    """Return the integers that stand for the rows.

    Args:
        rows: (G, M, K) M rows of each of G independent groups, real units.
        second: (G, K, K) second moments of the inputs, damped.
        steps: (G, M) real units per step, or (G, M, K) where columns have steps of their own.
        low: Smallest integer of each row, the zero point subtracted; broadcasts to (G, M, 1).
        high: Largest one.

    Returns:
        (G, M, K) float64, whole numbers in [low, high].
    """
    by_column = steps.ndim == 3
    exact = rows.astype(np.float64) if by_column else rows.astype(np.float64) / steps[..., None]
    grid = steps.astype(np.float64) if by_column else np.ones((1, 1, rows.shape[-1]))
    across = _order(second)[:, None, :]
    ordered = np.take_along_axis(np.take_along_axis(second, across.swapaxes(1, 2), axis=1), across, axis=2)
    exact = np.take_along_axis(exact, across, axis=2)
    grid = np.take_along_axis(grid, across, axis=2)
    ordered, upper = _factored(ordered)
    least, most = (np.broadcast_to(np.asarray(end, np.float64), (*exact.shape[:2], 1)) for end in (low, high))
    found = search(exact, upper, grid, least, most)
    del upper
    _settle(found, exact, ordered, grid, least, most)
    result = np.empty_like(found)
    np.put_along_axis(result, np.broadcast_to(across, found.shape), found, axis=2)
    return result


def _order(second: Array) -> Array:
    """Return the order of the columns, (G, K)."""
    diagonal = np.diagonal(second, axis1=-2, axis2=-1)
    groups, size = diagonal.shape
    if size > MOST_ORDERED:
        return np.argsort(-diagonal, axis=-1, kind="stable")
    order = np.empty((groups, size), dtype=np.int64)
    each = np.arange(groups)
    least = SMALLEST_PIVOT * np.abs(second).max(axis=(1, 2))
    left = diagonal.astype(np.float64)  # what varies of each column when those behind it are known
    rest = second.astype(np.float64)  # and what of it varies with the others, before the block
    for start in range(0, size, BLOCK):
        factor = np.zeros((groups, size, min(BLOCK, size - start)))
        for known in range(factor.shape[2]):
            place = left.argmin(axis=1)
            order[:, size - 1 - start - known] = place
            seen = factor[each, place, :known, None]
            pivot = left[each, place]
            column = rest[each, :, place] - (factor[:, :, :known] @ seen)[..., 0]
            column *= np.where(pivot > least, 1 / np.sqrt(np.maximum(pivot, least)), 0.0)[:, None]
            factor[:, :, known] = column
            left -= column**2
            left[each, place] = np.inf
        rest -= factor @ factor.swapaxes(1, 2)
    return order


def _settle(integers: Array, exact: Array, second: Array, grid: Array, low: Array, high: Array) -> None:
    """Move each integer of the rows that were clipped, in place, to where e H eᵀ is least, the others staying.

    Within a block of columns the pull on its own columns follows every move, that on the rest the product of all.
    """
    clipped = ((integers == low) | (integers == high)).any(axis=2)
    if not clipped.any():
        return
    groups = np.flatnonzero(clipped.any(axis=1))
    some = np.ix_(groups, np.flatnonzero(clipped.any(axis=0)))
    grid, second = np.broadcast_to(grid, exact.shape)[some], second[groups]
    clipped, low, high = clipped[some], low[some][..., 0], high[some][..., 0]
    moved = integers[some]
    pull = (exact[some] - moved * grid) @ second
    for start in range(0, moved.shape[2], BLOCK):
        end = start + BLOCK
        whole, near, step = moved[..., start:end], pull[..., start:end], grid[..., start:end]
        before, own = whole.copy(), second[:, start:end, start:end]
        for j in range(whole.shape[2]):
            ideal = whole[..., j] + np.rint(near[..., j] / (own[:, None, j, j] * step[..., j]))
            change = np.where(clipped, np.clip(ideal, low, high) - whole[..., j], 0.0)
            whole[..., j] += change
            near -= (change * step[..., j])[..., None] * own[:, None, j]
        pull[..., end:] -= ((whole - before) * step) @ second[:, start:end, end:]
    integers[some] = moved


def _factored(second: Array) -> tuple[Array, Array]:
    """Return (G, K, K), damped further where rounding has left it without a factor, and U, second⁻¹ = Uᵀ U."""
    for damping in FURTHER:
        used = damped(second, damping) if damping else second
        try:
            lower = np.linalg.cholesky(used[:, ::-1, ::-1])
        except np.linalg.LinAlgError:
            continue
        return used, np.ascontiguousarray(_inverted(lower)[:, ::-1, ::-1])
    diagonal = np.diagonal(second, axis1=-2, axis2=-1)
    alone = np.where(diagonal > 0, diagonal, 1.0)[:, :, None]
    each = np.eye(second.shape[-1])
    return alone * each, each / np.sqrt(alone)  # to nearest: no column helps another


def _inverted(lower: Array) -> Array:
    """Return the inverses of lower triangular matrices (G, K, K); by halves, nearly all of it products of matrices."""
    size = lower.shape[-1]
    if size <= LARGEST_WHOLE:
        return np.linalg.inv(lower)
    half = size // 2
    result = np.zeros_like(lower)
    first, last = _inverted(lower[:, :half, :half]), _inverted(lower[:, half:, half:])
    result[:, :half, :half], result[:, half:, half:] = first, last
    result[:, half:, :half] = -(last @ lower[:, half:, :half] @ first)
    return result
