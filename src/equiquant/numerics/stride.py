"""Which elements of an array stand for all of them."""

from __future__ import annotations

import math

__all__ = ["coprime_stride"]


def coprime_stride(least: int, size: int) -> int:
    """Return the smallest stride from `least` on that has no divisor in common with `size`.

    Through an array of that size it goes to every row, column and channel alike.

    >>> coprime_stride(6, 12 * 35)
    11
    """
    stride = max(1, least)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride
