"""Rounding weights so that the errors make up for each other on the inputs they meet (OBQ, GPTQ).

A layer computes w·x for every row w. Rounded to nearest, the error e = w − q costs e H eᵀ with H = E[x xᵀ]. Instead the
columns are rounded one after another, and what each lost is made good by those not yet rounded, as well as it can be:

    with H⁻¹ = Uᵀ U, U upper triangular:    w_rest ← w_rest − (w_j − q_j) / U_jj · U_j,rest

Columns with the largest diagonal go first. H is damped by a fraction of its mean diagonal, which keeps it invertible
and the corrections small where the inputs say little. U comes from one Cholesky factorization: H = V Vᵀ with V upper
triangular (that of the mirrored matrix, mirrored), U = V⁻¹.
Source: Frantar and Alistarh, arXiv:2208.11580 (OBQ); Frantar et al., arXiv:2210.17323 (GPTQ), section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

__all__ = ["DAMPING", "damped", "regress", "round_rows"]

Array = npt.NDArray[Any]

DAMPING = 0.01  # of the mean diagonal, as published
FURTHER = (0.0, 0.1, 1.0)  # of the mean diagonal, where a factorization fails
BLOCK = 128  # columns between two updates of all the rest, so that these are products of matrices


def damped(second: Array, damping: float = DAMPING) -> Array:
    """Return (G, K, K) second moments with a fraction of the mean diagonal added to it; an empty one gets 1."""
    size = second.shape[-1]
    level = damping * np.trace(second, axis1=-2, axis2=-1) / size
    result = second.copy()
    index = np.arange(size)
    result[:, index, index] += np.where(level > 0, level, 1.0)[:, None]
    return result


def regress(products: Array, second: Array) -> Array:
    """Return products · second⁻¹: (G, M, K) · (G, K, K)⁻¹, the second moments damped already."""
    result: Array = np.linalg.solve(second, products.swapaxes(-1, -2)).swapaxes(-1, -2)
    return result


def round_rows(rows: Array, second: Array, steps: Array, low: int, high: int) -> Array:
    """Return the integers that stand for the rows.

    Args:
        rows: (G, M, K) M rows of each of G independent groups, real units.
        second: (G, K, K) second moments of the inputs, damped.
        steps: (G, M) real units per step, or (G, M, K) where columns have steps of their own.
        low: Smallest integer, the zero point subtracted.
        high: Largest one.

    Returns:
        (G, M, K) float64, whole numbers in [low, high].
    """
    order = np.argsort(-np.diagonal(second, axis1=-2, axis2=-1), axis=-1, kind="stable")  # (G, K)
    by_column = steps.ndim == 3
    scaled = rows.astype(np.float64) if by_column else rows.astype(np.float64) / steps[..., None]
    left = np.take_along_axis(scaled, order[:, None, :], axis=2)
    grid = np.take_along_axis(steps, order[:, None, :], axis=2) if by_column else np.ones((1, 1, left.shape[-1]))
    ordered = np.take_along_axis(np.take_along_axis(second, order[:, :, None], axis=1), order[:, None, :], axis=2)
    upper = _upper(ordered)
    del ordered
    result = np.empty_like(left)
    size = left.shape[-1]
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        lost = np.empty((*left.shape[:2], end - start))
        for j in range(start, end):
            result[:, :, j] = np.clip(np.rint(left[:, :, j] / grid[:, :, j]), low, high)
            lost[:, :, j - start] = (left[:, :, j] - result[:, :, j] * grid[:, :, j]) / upper[:, j, j, None]
            left[:, :, j + 1 : end] -= lost[:, :, j - start, None] * upper[:, None, j, j + 1 : end]
        left[:, :, end:] -= lost @ upper[:, start:end, end:]
    restored = np.empty_like(result)
    np.put_along_axis(restored, np.broadcast_to(order[:, None, :], result.shape), result, axis=2)
    return restored


def _upper(second: Array) -> Array:
    """Return U (G, K, K), upper triangular, with second⁻¹ = Uᵀ U."""
    lower = _cholesky(second[:, ::-1, ::-1])
    if len(lower) > 1:
        return np.ascontiguousarray(np.linalg.inv(lower)[:, ::-1, ::-1])
    inverse, failed = lapack.dtrtri(np.ascontiguousarray(lower[0]).T, lower=0)  # the transpose, in LAPACK's order
    assert not failed  # a Cholesky factor has no 0 on its diagonal
    return np.ascontiguousarray(inverse.T[::-1, ::-1])[None]


def _cholesky(second: Array) -> Array:
    """Return the lower factor of (G, K, K), damped further where rounding has left it without one."""
    for damping in FURTHER:
        try:
            return np.linalg.cholesky(damped(second, damping) if damping else second)
        except np.linalg.LinAlgError:
            continue
    diagonal = np.maximum(np.diagonal(second, axis1=-2, axis2=-1), np.finfo(np.float64).tiny)
    return np.asarray(np.sqrt(diagonal)[:, :, None] * np.eye(second.shape[-1]))  # to nearest: no column helps another
