"""Power-of-two scales 2**e: the smallest that does not overflow, and the one of least squared error.

With the zero point at the center of its type an integer stands for q·2^e, q in [qmin − center, qmax − center]:
[−128, 127] for int8, and for uint8 around 128. (The type's whole range is used.)

NonOverflow: the smallest e at which no value is clipped by more than the half step that rounding may cost anyway,
(lo − ½)·2^e <= x <= (hi + ½)·2^e, i.e. e = ceil(log2 max(low / (lo − ½), high / (hi + ½))).

The documented implementation of NonOverflow instead rounds log2 of the float scale to the nearest integer
(`rounding="nearest"`, scale = max|x| / max q, for an unsigned zero point 0 high / qmax): one exponent finer wherever
the fraction is below a half, at the price of clipping up to 1 − 1/√2 = 29 % of the range.

MinMSE: among that e and the next four finer ones the exponent with the least Σ (x − x̂)²; of equals the coarsest.
Source: AMD Vitis AI and Quark for ONNX documentation, `PowerOfTwoMethod.MinMSE` and `NonOverflow`, as fixed-point
positions.

Over a histogram all values of a bin count as its center, which is exact up to the spread within the bin where the bin
edges fall on the rounding boundaries (step > bin width). Where the step is finer than a bin (16 bits), values inside
the range count as uniformly spread, step²/12 each, and values outside by their center.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from equiquant.numerics.affine import IntType
from equiquant.numerics.statistics.histogram import DyadicHistogram

__all__ = [
    "FINER_CANDIDATES",
    "LARGEST_EXPONENT",
    "SMALLEST_EXPONENT",
    "minmse_exponent",
    "minmse_margin",
    "nonoverflow_exponent",
    "squared_errors",
]

Array = npt.NDArray[Any]

FINER_CANDIDATES = 4
SMALLEST_EXPONENT, LARGEST_EXPONENT = -126, 127  # 2^e is a normal float32
CHUNK = 1 << 18  # elements a step: smaller ones keep threads waiting for each other


def nonoverflow_exponent(
    low: Any,
    high: Any,
    kind: IntType,
    *,
    zero_point: int | None = None,
    rounding: Literal["up", "nearest"] = "up",
) -> Any:
    """Return the smallest exponent at which [low, high] does not overflow.

    Args:
        low: Smallest value, a scalar or an array of one per channel.
        high: Largest value, same shape.
        kind: Storage type.
        zero_point: The integer that stands for 0; None for the type's center.
        rounding: `up` never overflows; `nearest` rounds log2 of the float scale and may.

    Returns:
        e with scale 2.0**e, in [−126, 127]: an int for scalars, else an int64 array. 0 where all values are 0.

    >>> from equiquant.numerics.affine import INT_TYPES
    >>> nonoverflow_exponent(-1.0, 1.0, INT_TYPES["int8"]), nonoverflow_exponent(-1.0, 0.9, INT_TYPES["int8"])
    (-6, -7)
    """
    lo, hi = _levels(kind, zero_point)
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if rounding == "nearest":
        need = np.maximum(-low if lo < 0 else np.zeros_like(low), high) / hi
        exponent = np.rint(np.log2(np.where(need > 0, need, 1.0))).astype(np.int64)
    else:
        need = np.maximum(low / (lo - 0.5), high / (hi + 0.5))
        mantissa, exponent = np.frexp(need)  # need = mantissa · 2^exponent, mantissa in [½, 1)
        exponent = np.where(mantissa == 0.5, exponent - 1, exponent).astype(np.int64)
    exponent = np.where(need > 0, np.clip(exponent, SMALLEST_EXPONENT, LARGEST_EXPONENT), 0)
    return int(exponent) if exponent.ndim == 0 else exponent


@overload
def minmse_exponent(
    data: Array | DyadicHistogram, kind: IntType, axis: None = None, *, zero_point: int | None = None
) -> int: ...


@overload
def minmse_exponent(data: Array, kind: IntType, axis: int, *, zero_point: int | None = None) -> Array: ...


def minmse_exponent(
    data: Array | DyadicHistogram, kind: IntType, axis: int | None = None, *, zero_point: int | None = None
) -> Any:
    """Return the exponent of least squared error among the overflow-free one and the four finer ones.

    Args:
        data: An array of finite values, searched exactly, or the histogram of a stream of them.
        kind: Storage type.
        axis: Channel axis of an array, for one exponent a channel.
        zero_point: The integer that stands for 0; None for the type's center.

    Returns:
        e with scale 2.0**e, in [−126, 127]: an int, or with `axis` an int64 array of shape `(C,)`. 0 where
        all values are 0.
    """
    if isinstance(data, DyadicHistogram):
        return _search_histogram(data, kind, zero_point)
    if axis is None:
        return int(_search(data.reshape(1, -1), kind, zero_point)[0])
    return _search(np.moveaxis(data, axis, 0).reshape(data.shape[axis], -1), kind, zero_point)


def _levels(kind: IntType, zero_point: int | None) -> tuple[int, int]:
    zero = kind.center if zero_point is None else zero_point
    return kind.qmin - zero, kind.qmax - zero


def _candidates(top: Array) -> Array:
    """Return the exponents to try, coarsest first, `(1 + FINER_CANDIDATES, C)`."""
    steps = np.arange(1 + FINER_CANDIDATES)[:, None]
    return np.maximum(top[None, :] - steps, SMALLEST_EXPONENT)


def _residual(values: Array, exponent: Any, levels: tuple[int, int]) -> Array:
    """Return x / 2**e − q, in steps."""
    scaled = values * np.ldexp(values.dtype.type(1), -exponent)
    q = np.rint(scaled)
    np.clip(q, *levels, out=q)
    scaled -= q
    result: Array = scaled
    return result


def _search(rows: Array, kind: IntType, zero_point: int | None) -> Array:
    """Return the exponent of each row of `rows`, `(C, M)`, in pieces that stay in cache."""
    channels, length = rows.shape
    if not rows.size:
        return np.zeros(channels, np.int64)
    top = nonoverflow_exponent(rows.min(axis=1), rows.max(axis=1), kind, zero_point=zero_point)
    candidates = _candidates(top)
    levels = _levels(kind, zero_point)
    errors = np.zeros(candidates.shape)
    tall = max(1, CHUNK // length)
    for first in range(0, channels, tall):
        pick = slice(first, first + tall)
        for start in range(0, length, CHUNK):
            piece = rows[pick, start : start + CHUNK].astype(np.float32, copy=False)
            for k, exponents in enumerate(candidates[:, pick]):
                residual = _residual(piece, exponents[:, None], levels)
                errors[k, pick] += np.square(residual, out=residual).sum(axis=1)
    errors *= 4.0 ** candidates.astype(np.float64)
    best: Array = np.take_along_axis(candidates, errors.argmin(axis=0)[None, :], axis=0)[0]
    return best


def minmse_margin(data: DyadicHistogram, kind: IntType, *, zero_point: int | None = None) -> float:
    """Return by how much, relative to itself, the least squared error lies below the next larger one; ∞ if alone."""
    candidates, errors = _errors(data, kind, zero_point)
    best = int(np.argmin(errors))
    others = np.delete(errors, best)[np.delete(candidates, best) != candidates[best]]
    if not others.size:
        return float("inf")
    return float(others.min() / errors[best] - 1) if errors[best] > 0 else float("inf" if others.min() > 0 else 0)


def squared_errors(
    data: Array | DyadicHistogram, exponents: Array, kind: IntType, *, zero_point: int | None = None
) -> tuple[Array, float]:
    """Return the mean squared error of each exponent, and the mean square of the values themselves.

    Args:
        data: An array of finite values, or the histogram of a stream of them.
        exponents: (K,) of scales 2.0**e.
        kind: Storage type.
        zero_point: The integer that stands for 0; None for the type's center.
    """
    levels = _levels(kind, zero_point)
    if isinstance(data, DyadicHistogram):
        values, weights = data.occupied()
        errors = _bin_errors(values, weights, data.exponent, exponents, levels)
    else:
        values, weights = data.reshape(-1).astype(np.float64), np.ones(data.size)
        errors = np.array([np.square(_residual(values, e, levels)).sum() * 4.0 ** float(e) for e in exponents])
    count = max(float(weights.sum()), 1.0)
    return errors / count, float(weights @ np.square(values)) / count


def _search_histogram(data: DyadicHistogram, kind: IntType, zero_point: int | None) -> int:
    candidates, errors = _errors(data, kind, zero_point)
    return int(candidates[int(np.argmin(errors))])


def _errors(data: DyadicHistogram, kind: IntType, zero_point: int | None) -> tuple[Array, Array]:
    """Return the candidates, coarsest first, and the squared error of each over a histogram."""
    top = nonoverflow_exponent(data.low, data.high, kind, zero_point=zero_point)
    candidates = _candidates(np.array([top]))[:, 0]
    return candidates, _bin_errors(*data.occupied(), data.exponent, candidates, _levels(kind, zero_point))


def _bin_errors(centers: Array, counts: Array, width: int, exponents: Array, levels: tuple[int, int]) -> Array:
    """Return the squared error of each exponent over bins of width 2**`width`."""
    errors = []
    for exponent in exponents:
        squared = _residual(centers, exponent, levels) ** 2
        if exponent <= width:  # bins straddle rounding boundaries: their centers say nothing of the rounding
            squared = np.maximum(squared, 1 / 12)
        errors.append(np.dot(counts, squared) * 4.0 ** float(exponent))
    return np.array(errors)
