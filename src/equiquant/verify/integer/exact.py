"""Numbers without rounding: integers times a power of two, as an integer accumulator holds them.

    value = codes · 2^exponent / divisor

A quantized tensor with a power-of-two scale is one of these, so is every sum and product of them; a mean keeps its
divisor until it is rounded. `round_to` is the only place where anything is rounded: a shift, half to even, as
QuantizeLinear rounds (ONNX operator specification).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.affine import IntType

__all__ = ["FLOAT32_INTEGERS", "Exact", "Unsupported", "align", "exact_of", "halve_to_even", "largest", "multiply"]

Array = npt.NDArray[Any]

FLOAT32_INTEGERS = 1 << 24  # float32 holds every integer up to here, so that sums below it do not depend on their order
_LIMIT_BITS = 62  # of an int64


class Unsupported(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised where an operator cannot be done on integers; its text says why."""


@dataclass(frozen=True, eq=False)
class Exact:
    """A tensor of exact values.

    Attributes:
        codes: int64.
        exponent: Of the power of two all codes are multiplied by.
        divisor: What they are divided by, positive: 1, or the number of values in a mean, one or one for each.
        same_in_float32: float32 arithmetic, in any order, gives these very values.
    """

    codes: Array
    exponent: int
    divisor: int | Array = 1
    same_in_float32: bool = True

    def moved(self, codes: Array) -> Exact:
        """Return other codes of the same kind: what an operator that only moves data makes of these."""
        if not isinstance(self.divisor, int):
            raise Unsupported("it moves means with different numbers of values before they are rounded")
        return Exact(codes, self.exponent, self.divisor, self.same_in_float32)

    def shifted(self, exponent: int) -> Array:
        """Return the codes at an exponent not above this one's."""
        return _shift_left(self.codes, self.exponent - exponent)

    def to_float(self) -> Array:
        """Return the nearest float32 values."""
        return np.asarray(np.ldexp(self.codes / self.divisor, self.exponent), dtype=np.float32)

    def round_to(self, exponent: int, zero_point: int, kind: IntType) -> Array:
        """Return round(value / 2^exponent) + zero point, half to even, saturated, as `kind`."""
        shift = self.exponent - exponent
        if shift >= 0:
            steps = _divide(_shift_left(self.codes, shift), self.divisor)
        elif isinstance(self.divisor, int) and self.divisor == 1:
            steps = halve_to_even(self.codes, -shift)
        else:
            steps = _divide(self.codes, _shift_left(np.asarray(self.divisor, dtype=np.int64), -shift))
        return np.asarray(np.clip(steps + zero_point, kind.qmin, kind.qmax)).astype(kind.name)


def largest(codes: Array) -> int:
    """Return the largest magnitude, 0 for an empty tensor."""
    return max(int(codes.max(initial=0)), -int(codes.min(initial=0)))


def _shift_left(codes: Array, bits: int) -> Array:
    if bits == 0:
        return codes
    if bits + largest(codes).bit_length() > _LIMIT_BITS:
        raise Unsupported("its scales are too far apart for 64-bit integers")
    shifted: Array = codes << bits
    return shifted


def halve_to_even(codes: Array, bits: int) -> Array:
    """Return codes / 2^bits rounded half to even, by shifts; `bits` is at least 1.

    >>> halve_to_even(np.array([-3, -2, 1, 2, 3, 6]), 2).tolist()
    [-1, 0, 0, 0, 1, 2]
    """
    if bits >= _LIMIT_BITS:
        return np.zeros_like(codes)
    quotient = codes >> bits
    rest, half = codes & ((1 << bits) - 1), 1 << (bits - 1)
    up = (rest > half) | ((rest == half) & ((quotient & 1) == 1))
    result: Array = quotient + up
    return result


def _divide(codes: Array, divisor: int | Array) -> Array:
    """Return codes / divisor rounded half to even; the divisor is positive."""
    if isinstance(divisor, int) and divisor == 1:
        return codes
    quotient, rest = np.divmod(codes, divisor)
    up = (2 * rest > divisor) | ((2 * rest == divisor) & (quotient & 1 == 1))
    result: Array = quotient + up
    return result


def exact_of(array: Array) -> Exact:
    """Return a constant as integers times one power of two, without rounding: every float is such a number."""
    values = np.asarray(array, dtype=np.float64)
    if not np.isfinite(values).all():
        raise Unsupported("one of its constants is not finite")
    mantissa, exponent = np.frexp(values)
    digits = np.ldexp(mantissa, 53).astype(np.int64)
    used = digits != 0
    if not used.any():
        return Exact(np.zeros(values.shape, dtype=np.int64), 0)
    lowest = np.log2((digits[used] & -digits[used]).astype(np.float64)).astype(np.int64)
    least = int((exponent[used] - 53 + lowest).min())
    if int(exponent.max()) - least > _LIMIT_BITS:
        raise Unsupported("its constants are too far apart for 64-bit integers")
    return Exact(np.ldexp(values, -least).astype(np.int64), least)


def align(*tensors: Exact) -> tuple[list[Array], int, int | Array]:
    """Return the codes of several tensors at one exponent and divisor, with both."""
    exponent = min(t.exponent for t in tensors)
    codes = [t.shifted(exponent) for t in tensors]
    if all(isinstance(t.divisor, int) and t.divisor == tensors[0].divisor for t in tensors):
        return codes, exponent, tensors[0].divisor
    product: int | Array = 1
    for t in tensors:
        product = product * t.divisor
    scaled = [_times(c, product // t.divisor) for c, t in zip(codes, tensors, strict=True)]
    return scaled, exponent, product


def multiply(a: Exact, b: Exact) -> Exact:
    """Return the product, broadcast."""
    if a.codes.size == 1 and isinstance(b.divisor, int) and b.divisor > 1:
        a, b = b, a
    divisor, factor = a.divisor, b.codes
    if (
        isinstance(divisor, int)
        and divisor > 1
        and factor.size == 1
        and (common := math.gcd(divisor, int(factor.flat[0])))
    ):
        divisor, factor = divisor // common, factor // common
    codes = _times(a.codes, factor)
    same = a.same_in_float32 and b.same_in_float32 and largest(codes) <= FLOAT32_INTEGERS
    return Exact(codes, a.exponent + b.exponent, divisor * b.divisor, same)


def _times(codes: Array, factor: int | Array) -> Array:
    bits = largest(codes).bit_length() + largest(np.asarray(factor)).bit_length()
    if bits > _LIMIT_BITS:
        raise Unsupported("its numbers are too large for 64-bit integers")
    product: Array = codes * factor
    return product
