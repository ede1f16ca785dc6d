"""Conv, ConvTranspose, Gemm and MatMul on integers.

The products are summed by BLAS, in floats wide enough that every partial sum is an integer they hold: float32 below
2^24, float64 below 2^53, and plain int64 above. The result is that of an integer accumulator.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import attribute
from equiquant.verify.integer.exact import FLOAT32_INTEGERS, Exact, Unsupported, align, exact_of, largest, multiply
from equiquant.verify.integer.windows import ALL, Window, window_of

__all__ = ["conv", "conv_transpose", "gemm", "matmul"]

Array = npt.NDArray[Any]

_FLOAT64_INTEGERS = 1 << 53
_INT64_INTEGERS = 1 << 62


def conv(node: ir.Node, x: Exact, w: Exact, b: Exact | None = None) -> Exact:
    """Return the convolution of x (N, C, *spatial) with w (O, C/group, *kernel); b is (O,)."""
    groups = int(attribute(node, "group", 1))
    window = window_of(node, x.codes.shape[2:], w.codes.shape[2:])
    bound = largest(x.codes) * _row_sum(w.codes, 0)
    kind = _wide_enough(bound)
    data, weight = window.pad(x.codes.astype(kind), 0), w.codes.astype(kind)
    batch, outputs = len(data), len(weight)
    total = np.zeros((batch, groups, outputs // groups, int(np.prod(window.positions))), dtype=kind)
    for tap, seen in window.taps(data):
        taken = weight[(*ALL, *tap)].reshape(groups, outputs // groups, -1)
        total += _product(taken, seen.reshape(batch, groups, taken.shape[2], -1))
    codes = total.reshape(batch, outputs, *window.positions).astype(np.int64)
    return _with_bias(_accumulated(codes, x, w), _spread(b, codes.ndim), bound)


def _product(weight: Array, data: Array) -> Array:
    """Return weight (G, O, I) times data (N, G, I, P); a depthwise layer needs no matrix product."""
    result: Array = weight[None] * data if weight.shape[2] == 1 else np.matmul(weight[None], data)
    return result


def conv_transpose(node: ir.Node, x: Exact, w: Exact, b: Exact | None = None) -> Exact:
    """Return the transposed convolution of x (N, C, *spatial) with w (C, O/group, *kernel); b is (O,)."""
    groups, kernel, spatial = int(attribute(node, "group", 1)), w.codes.shape[2:], x.codes.shape[2:]
    strides = tuple(attribute(node, "strides", [1] * len(kernel)))
    dilations = tuple(attribute(node, "dilations", [1] * len(kernel)))
    begin, size = _transposed_size(node, spatial, kernel, strides, dilations)
    inputs, share = w.codes.shape[0] // groups, w.codes.shape[1]
    bound = largest(x.codes) * _row_sum(w.codes.reshape(groups, inputs, share, -1), 0, 2)
    kind = _wide_enough(bound)
    batch = len(x.codes)
    data = x.codes.astype(kind).reshape(batch, groups, inputs, -1)
    weight = w.codes.astype(kind).reshape(groups, inputs, share, *kernel)
    reach = [(k - 1) * d + (n - 1) * s + 1 for k, d, n, s in zip(kernel, dilations, spatial, strides, strict=True)]
    room = [max(r, b + n) for r, b, n in zip(reach, begin, size, strict=True)]
    total = np.zeros((batch, groups * share, *room), dtype=kind)
    zeros = (0,) * len(kernel)
    places = Window(kernel, strides, dilations, zeros, zeros, zeros, spatial)
    for tap in product(*(range(k) for k in kernel)):
        taken = weight[(*ALL, *tap)].swapaxes(1, 2)
        spread = np.matmul(taken[None], data).reshape(batch, groups * share, *spatial)
        total[(*ALL, *places.places(tap))] += spread
    kept = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
    codes = total[(*ALL, *kept)].astype(np.int64)
    return _with_bias(_accumulated(codes, x, w), _spread(b, codes.ndim), bound)


def _transposed_size(
    node: ir.Node, spatial: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: Any
) -> tuple[list[int], list[int]]:
    """Return what is cut off in front and the size that is left (ONNX operator specification, ConvTranspose)."""
    count = len(kernel)
    extra = list(attribute(node, "output_padding", [0] * count))
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(spatial, strides, kernel, dilations, extra, strict=True)
    ]
    mode, wanted = attribute(node, "auto_pad", "NOTSET"), attribute(node, "output_shape", None)
    if wanted is None and mode in ("NOTSET", "VALID"):
        pads = attribute(node, "pads", [0] * 2 * count) if mode == "NOTSET" else [0] * 2 * count
        return list(pads[:count]), [f - pads[i] - pads[count + i] for i, f in enumerate(full)]
    size = [n * s for n, s in zip(spatial, strides, strict=True)] if wanted is None else list(wanted)[-count:]
    if any(n > f for f, n in zip(full, size, strict=True)):
        raise Unsupported("its auto_pad or output_shape asks for more than its kernel reaches")
    total = [f - n for f, n in zip(full, size, strict=True)]
    return [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total], size


def gemm(node: ir.Node, a: Exact, b: Exact, c: Exact | None = None) -> Exact:
    """Return alpha·A·B + beta·C."""
    left = a.codes.T if attribute(node, "transA", 0) else a.codes
    right = b.codes.T if attribute(node, "transB", 0) else b.codes
    result, bound = _matrix_product(a, b, left, right)
    for name, place in (("alpha", 0), ("beta", 1)):
        factor = float(np.float32(attribute(node, name, 1.0)))
        if factor == 1.0:
            continue
        if place == 0:
            result, bound = multiply(result, exact_of(np.asarray(factor))), _INT64_INTEGERS
        elif c is not None:
            c = multiply(c, exact_of(np.asarray(factor)))
    return _with_bias(result, c, bound)


def matmul(node: ir.Node, a: Exact, b: Exact) -> Exact:
    """Return the matrix product."""
    if a.codes.ndim == 0 or b.codes.ndim == 0:
        raise Unsupported("one of its operands is a scalar")
    result, bound = _matrix_product(a, b, a.codes, b.codes)
    return Exact(result.codes, result.exponent, 1, result.same_in_float32 and bound <= FLOAT32_INTEGERS)


def _matrix_product(a: Exact, b: Exact, left: Array, right: Array) -> tuple[Exact, int]:
    rows = np.abs(right).sum(axis=0 if right.ndim == 1 else -2)
    bound = largest(left) * largest(rows)
    kind = _wide_enough(bound)
    codes = np.matmul(left.astype(kind), right.astype(kind)).astype(np.int64)
    return _accumulated(codes, a, b), bound


def _accumulated(codes: Array, x: Exact, w: Exact) -> Exact:
    if not (isinstance(x.divisor, int) and isinstance(w.divisor, int)) or x.divisor * w.divisor != 1:
        raise Unsupported("it reads a mean that was not rounded")
    return Exact(codes, x.exponent + w.exponent, 1, x.same_in_float32 and w.same_in_float32)


def _with_bias(total: Exact, bias: Exact | None, bound: int) -> Exact:
    """Add a bias at the finer of both exponents; `bound` is that of any partial sum, in steps of the total."""
    if bias is None:
        return Exact(total.codes, total.exponent, 1, total.same_in_float32 and bound <= FLOAT32_INTEGERS)
    (codes, shifted), exponent, divisor = align(total, bias)
    reach = (bound << (total.exponent - exponent)) + largest(shifted)
    same = total.same_in_float32 and bias.same_in_float32 and reach <= FLOAT32_INTEGERS
    return Exact(codes + shifted, exponent, divisor, same)


def _spread(bias: Exact | None, rank: int) -> Exact | None:
    return None if bias is None else bias.moved(bias.codes.reshape(1, -1, *[1] * (rank - 2)))


def _row_sum(weight: Array, *kept: int) -> int:
    """Return the largest sum of magnitudes behind one output channel."""
    axes = tuple(i for i in range(weight.ndim) if i not in kept)
    return largest(np.abs(weight).sum(axis=axes))


def _wide_enough(bound: int) -> str:
    """Return the type that holds every integer up to `bound`."""
    if bound > _INT64_INTEGERS:
        raise Unsupported("its sums are too large for 64-bit integers")
    return "float32" if bound <= FLOAT32_INTEGERS else "float64" if bound <= _FLOAT64_INTEGERS else "int64"
