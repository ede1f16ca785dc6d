"""Sums of floats without rounding: a fixed-point number wide enough for all of them.

A value v = m·2^e (m of 53 bits) is cut into three digits of base 2^32 and added to `DIGITS` integer digits from
2^`LOWEST` up (what lies below is cut off, value by value). Integer addition is associative, so the sum depends neither
on the order of the values nor on how they were split between accumulators: two shards merge to the bits of one run.
Source: Kulisch, "Very fast and exact accumulation of products", Computing 91, 2011 (the long accumulator).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ExactSum"]

Array = npt.NDArray[Any]

BASE = 32  # bits of a digit
LOWEST, HIGHEST = -224, 288  # 2^LOWEST is the unit; a value must stay below 2^(HIGHEST − 64)
DIGITS = (HIGHEST - LOWEST) // BASE
MASK = np.int64((1 << BASE) - 1)
MANTISSA = 53
PENDING = 16  # rows kept before they are added, so that one call serves many


class ExactSum:
    """The exact sum of vectors of floats.

    Args:
        size: Length of the vectors.
    """

    def __init__(self, size: int) -> None:
        self._digits: Array = np.zeros((DIGITS, size), np.int64)
        self._pending: list[Array] = []

    @staticmethod
    def of_digits(digits: Array) -> ExactSum:
        """Return the sum that `digits` describes."""
        result = ExactSum(digits.shape[1])
        result._digits += digits
        return result

    def add(self, rows: Array) -> None:
        """Add every row of `rows`, finite floats of shape `(n, size)`."""
        self._pending.append(rows)
        if len(self._pending) >= PENDING:
            self._flush()

    def merge(self, other: ExactSum) -> ExactSum:
        """Return the sum of both."""
        return ExactSum.of_digits(self.digits() + other.digits())

    def digits(self) -> Array:
        """Return the sum's digits, int64 `(DIGITS, size)`, lowest first; the same for equal sums."""
        self._flush()
        for k in range(DIGITS - 1):
            self._digits[k + 1] += self._digits[k] >> BASE
            self._digits[k] &= MASK
        return self._digits.copy()

    def value(self) -> Array:
        """Return the sum, float64 of shape `(size,)`."""
        digits = self.digits()
        total = np.zeros(digits.shape[1])
        for k in reversed(range(DIGITS)):
            total += np.ldexp(digits[k].astype(np.float64), LOWEST + BASE * k)
        return total

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = np.concatenate(self._pending)
        self._pending = []
        mantissa, exponent = np.frexp(rows.astype(np.float64))
        integers = np.ldexp(mantissa, MANTISSA).astype(np.int64)  # exact
        position = exponent.astype(np.int64) - MANTISSA - LOWEST
        integers >>= np.clip(-position, 0, 63)
        digit, shift = np.divmod(np.maximum(position, 0), BASE)
        low, high = (integers & MASK) << shift, (integers >> BASE) << shift
        place = digit * rows.shape[1] + np.arange(rows.shape[1])
        flat = self._digits.reshape(-1)
        np.add.at(flat, place, low & MASK)
        np.add.at(flat, place + rows.shape[1], (low >> BASE) + (high & MASK))
        np.add.at(flat, place + 2 * rows.shape[1], high >> BASE)
