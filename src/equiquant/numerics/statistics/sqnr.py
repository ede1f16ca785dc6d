"""Distance between a tensor and its quantized twin, from running sums in float64.

With reference r and output q, over all samples and positions:

    SQNR = 10 log10(Σ r² / Σ (r − q)²) dB        cosine = Σ r q / sqrt(Σ r² · Σ q²)

Equalization multiplies the channels of an intermediate tensor by positive factors that the next layer undoes. The
aligned SQNR first divides every channel of q by the factor found by regressing q on r, g_c = Σ r q / Σ r². Noise
independent of r leaves g_c = 1, so alignment does not flatter a noisy channel, as fitting r to q would. What remains in
channel c is Σ (r − q / g_c)² = Σ r² (Σ r² Σ q² / (Σ r q)² − 1), of n values times n / (n − 1), for the factor
took the noise of one of them: of a single value nothing would remain, and its noise counts as it is.
Of several tensors there are two means. That of their dB lets none drown the others: a gain anywhere counts, so it tells
which of two ways of rounding everything is better. That of their noise over signal, in dB, is near the worst one's: an
exact tensor cannot pay for one that is lost, so it tells what is left and what a part of the rounding costs.
Source: Nagel et al., arXiv:2106.08295, section 2 (quantization noise); the alignment is ordinary least squares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK", "ErrorAccumulator", "ErrorFigures", "decibels", "least_db", "mean_db", "mean_noise_db"]

Array = npt.NDArray[Any]

BEST_DB = 200.0  # in a mean, where there is no noise at all: beyond what float32 can tell
BLOCK = 1 << 15  # elements converted to float64 at a time: both arrays stay in the second-level cache


def decibels(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise): inf without noise, −inf if the noise is not finite or there is no signal.

    >>> decibels(100.0, 1.0)
    20.0
    """
    if noise == 0:
        return math.inf
    if not math.isfinite(noise) or signal <= 0:
        return -math.inf
    return 10 * math.log10(signal / noise)


def least_db(ratios: Iterable[float]) -> float:
    """Return the least of the dB of several tensors, within ±200; 200 of none.

    >>> least_db([20.0, math.inf])
    20.0
    """
    return float(np.clip(min(ratios, default=BEST_DB), -BEST_DB, BEST_DB))


def mean_db(ratios: Iterable[float]) -> float:
    """Return the mean of the dB of several tensors, each within ±200; 200 of none.

    >>> mean_db([20.0, math.inf])
    110.0
    """
    ratios = list(ratios)
    return float(np.mean(np.clip(ratios, -BEST_DB, BEST_DB))) if ratios else BEST_DB


def mean_noise_db(ratios: Iterable[float]) -> float:
    """Return the mean noise over signal of several tensors as dB, each within ±200; 200 of none, of one its own.

    >>> round(mean_noise_db([20.0, math.inf]), 3)
    23.01
    """
    found = np.clip(list(ratios), -BEST_DB, BEST_DB)
    if not found.size:
        return BEST_DB
    worst = found.min()
    return float(worst - 10 * np.log10(np.mean(10 ** ((worst - found) / 10))))


@dataclass(frozen=True)
class ErrorFigures:
    """How far a tensor is from its reference.

    Attributes:
        count: Elements compared.
        sqnr_db: Signal over noise, dB; inf when identical.
        aligned_sqnr_db: The same with a positive factor per channel taken out; equals `sqnr_db` without a channel axis.
        max_abs_error: Largest |r − q|.
        cosine: Cosine of the angle between the two.
    """

    count: int
    sqnr_db: float
    aligned_sqnr_db: float
    max_abs_error: float
    cosine: float


class ErrorAccumulator:
    """Adds up one tensor's error over any number of batches, in constant memory.

    Args:
        channel_axis: Axis of the channels for the aligned SQNR; None for none. Where its size differs from batch to
            batch there are none either.
    """

    def __init__(self, channel_axis: int | None = None) -> None:
        self._axis = channel_axis
        self._signal: Array = np.zeros(1)  # Σ r² per channel (C,)
        self._energy: Array = np.zeros(1)  # Σ q² per channel (C,)
        self._dot: Array = np.zeros(1)  # Σ r q per channel (C,)
        self._noise = 0.0
        self._largest = 0.0
        self._count = 0

    def add(self, reference: Array, output: Array) -> None:
        """Add one batch of two arrays of the same shape.

        Raises:
            ValueError: The shapes differ.
        """
        if reference.shape != output.shape:
            raise ValueError(f"shapes differ: {reference.shape} and {output.shape}")
        if not reference.size:
            return
        shape = self._laid_out(reference.shape)
        for part, r, q in _blocks(reference.reshape(shape), output.reshape(shape)):
            r, q = _agreeing(r.astype(np.float64), q.astype(np.float64))
            difference = r - q
            self._signal[part] += np.einsum("nci,nci->c", r, r)
            self._energy[part] += np.einsum("nci,nci->c", q, q)
            self._dot[part] += np.einsum("nci,nci->c", r, q)
            self._noise += float(np.einsum("nci,nci->", difference, difference))
            largest = float(np.abs(difference, out=difference).max())
            self._largest = largest if math.isnan(largest) else max(self._largest, largest)
        self._count += reference.size

    @property
    def silent(self) -> bool:
        """True if the reference was nothing but zeros so far: there is no signal to compare noise with."""
        return not self._signal.any()

    def _laid_out(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return a batch's shape as (outer, channels, inner), and make the sums fit its channels."""
        axis = self._axis if self._axis is not None and self._axis < len(shape) else None
        if axis is not None and self._count and shape[axis] != self._signal.size:
            sums = (self._signal, self._energy, self._dot)
            self._signal, self._energy, self._dot = (each.sum(keepdims=True) for each in sums)
            self._axis = axis = None
        outer, channels, inner = 1, 1, math.prod(shape)
        if axis is not None:
            outer, channels, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        if not self._count:
            self._signal, self._energy, self._dot = np.zeros((3, channels))
        return outer, channels, inner

    def figures(self) -> ErrorFigures:
        """Return the figures of everything added so far."""
        signal, energy, dot = float(self._signal.sum()), float(self._energy.sum()), float(self._dot.sum())
        sqnr = decibels(signal, self._noise)
        aligned = sqnr
        if self._signal.size > 1 and math.isfinite(sqnr):
            values = self._count / self._signal.size  # a channel
            fits = (self._dot > 0) & (values > 1)
            square = np.where(fits, self._dot, 1.0) ** 2
            aligned_noise = self._signal * (self._signal * self._energy / square - 1)
            plain_noise = self._signal - 2 * self._dot + self._energy
            left = np.minimum(aligned_noise, plain_noise) * values / max(values - 1, 1)
            residual = np.where(fits, left, plain_noise)
            # below this floor the difference of two sums is rounding of the sums themselves
            residual = np.maximum(residual, self._signal * np.finfo(np.float64).eps)
            aligned = max(sqnr, decibels(signal, float(residual.sum())))
        scale = math.sqrt(signal) * math.sqrt(energy) if math.isfinite(energy) and energy >= 0 else math.nan
        cosine = dot / scale if scale > 0 else (1.0 if signal == energy == 0 else 0.0)
        return ErrorFigures(self._count, sqnr, aligned, self._largest, cosine)


def _blocks(reference: Array, output: Array) -> Iterator[tuple[slice, Array, Array]]:
    """Yield which channels, and views shaped (outer, channels, inner) of about `BLOCK` elements."""
    outer, channels, inner = reference.shape
    positions = min(inner, BLOCK)
    rows = min(channels, max(1, BLOCK // positions))
    samples = max(1, BLOCK // (rows * positions)) if rows == channels else 1
    for n, c, i in product(range(0, outer, samples), range(0, channels, rows), range(0, inner, positions)):
        block = np.s_[n : n + samples, c : c + rows, i : i + positions]
        yield block[1], reference[block], output[block]


def _agreeing(r: Array, q: Array) -> tuple[Array, Array]:
    """Drop non-finite reference values: no error where both say the same, an infinite one where they do not.

    A masked logit of −inf that stays −inf is no noise, and must not turn every sum into NaN.
    """
    finite = np.isfinite(r)
    if finite.all():
        return r, q
    same = (r == q) | (np.isnan(r) & np.isnan(q))
    return np.where(finite, r, 0.0), np.where(finite, q, np.where(same, 0.0, np.inf))
