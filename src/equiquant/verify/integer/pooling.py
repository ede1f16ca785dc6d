"""Pools and reductions on integers: a maximum compares codes, a mean is a sum with a divisor.

Source: ONNX operator specification, MaxPool, AveragePool (`count_include_pad`), ReduceMean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import attribute
from equiquant.verify.integer.exact import FLOAT32_INTEGERS, Exact, Unsupported, largest
from equiquant.verify.integer.windows import window_of

__all__ = ["average_pool", "global_average_pool", "global_max_pool", "max_pool", "reduce"]

Array = npt.NDArray[Any]

_LOWEST = np.iinfo(np.int64).min


def max_pool(node: ir.Node, x: Exact) -> Exact:
    """Return the largest value of each window; padding never wins."""
    window = window_of(node, x.codes.shape[2:], tuple(attribute(node, "kernel_shape", ())))
    best: Array | None = None
    for _, seen in window.taps(window.pad(x.codes, _LOWEST)):
        best = seen if best is None else np.maximum(best, seen)
    assert best is not None
    return x.moved(np.asarray(best))


def average_pool(node: ir.Node, x: Exact) -> Exact:
    """Return the sum of each window over how many values it holds, with the padding only if it counts."""
    window = window_of(node, x.codes.shape[2:], tuple(attribute(node, "kernel_shape", ())))
    counted = 1 if attribute(node, "count_include_pad", 0) else 0
    ones = window.pad(np.ones((1, 1, *x.codes.shape[2:]), dtype=np.int64), counted, outside=0)
    total = sum(seen for _, seen in window.taps(window.pad(x.codes, 0)))
    count = np.asarray(sum(seen for _, seen in window.taps(ones)))
    divisor: int | Array = int(count.flat[0]) if np.all(count == count.flat[0]) else count
    return _mean(x, np.asarray(total), divisor, largest(x.codes) * int(np.max(count)))


def global_average_pool(node: ir.Node, x: Exact) -> Exact:
    """Return the mean over all spatial positions."""
    return _mean_over(x, tuple(range(2, x.codes.ndim)), keep=True)


def global_max_pool(node: ir.Node, x: Exact) -> Exact:
    """Return the largest value over all spatial positions."""
    return x.moved(x.codes.max(axis=tuple(range(2, x.codes.ndim)), keepdims=True))


def reduce(node: ir.Node, x: Exact, axes: Array | None = None) -> Exact:
    """Return ReduceMean, ReduceSum, ReduceMax or ReduceMin."""
    rank = x.codes.ndim
    given = attribute(node, "axes", None) if axes is None else axes.tolist()
    if not given and attribute(node, "noop_with_empty_axes", 0):
        return x
    over = tuple(int(a) % rank for a in given) if given else tuple(range(rank))
    keep = bool(attribute(node, "keepdims", 1))
    if node.op_type == "ReduceMean":
        return _mean_over(x, over, keep)
    if node.op_type == "ReduceSum":
        reach = largest(x.codes) * int(np.prod([x.codes.shape[a] for a in over]))
        summed = x.moved(x.codes.sum(axis=over, keepdims=keep))
        return Exact(summed.codes, x.exponent, x.divisor, x.same_in_float32 and reach <= FLOAT32_INTEGERS)
    pick = np.max if node.op_type == "ReduceMax" else np.min
    return x.moved(np.asarray(pick(x.codes, axis=over, keepdims=keep)))


def _mean_over(x: Exact, axes: tuple[int, ...], keep: bool) -> Exact:
    count = int(np.prod([x.codes.shape[a] for a in axes]))
    return _mean(x, x.codes.sum(axis=axes, keepdims=keep), count, largest(x.codes) * count)


def _mean(x: Exact, total: Array, count: int | Array, reach: int) -> Exact:
    """Return total / count; float32 rounds the quotient unless the count is a power of two."""
    if not isinstance(x.divisor, int) or x.divisor != 1:
        raise Unsupported("it averages a mean that was not rounded")
    power = bool(np.all(np.bitwise_and(count, np.asarray(count) - 1) == 0))
    return Exact(total, x.exponent, count, x.same_in_float32 and power and reach <= FLOAT32_INTEGERS)
