"""Activations and arithmetic on integers. A float constant takes part as the integer times a power of two it is.

Source: ONNX operator specification.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import attribute
from equiquant.verify.integer.exact import FLOAT32_INTEGERS, Exact, align, exact_of, largest, multiply

__all__ = [
    "absolute",
    "add",
    "clip",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "maximum",
    "minimum",
    "mul",
    "neg",
    "prelu",
    "relu",
    "sub",
]

Array = npt.NDArray[Any]


def relu(node: ir.Node, x: Exact) -> Exact:
    """Return max(x, 0)."""
    return Exact(np.maximum(x.codes, 0), x.exponent, x.divisor, x.same_in_float32)


def leaky_relu(node: ir.Node, x: Exact) -> Exact:
    """Return x, times alpha below 0."""
    return _sloped(x, exact_of(_number(attribute(node, "alpha", 0.01))))


def prelu(node: ir.Node, x: Exact, slope: Exact) -> Exact:
    """Return x, times its channel's slope below 0."""
    return _sloped(x, slope)


def _sloped(x: Exact, slope: Exact) -> Exact:
    negative = multiply(Exact(np.minimum(x.codes, 0), x.exponent, x.divisor, x.same_in_float32), slope)
    (straight, bent), exponent, divisor = align(x, negative)
    codes = np.where(np.broadcast_to(x.codes, bent.shape) < 0, bent, straight)
    return Exact(codes, exponent, divisor, negative.same_in_float32)


def clip(node: ir.Node, x: Exact, low: Exact | None = None, high: Exact | None = None) -> Exact:
    """Return x between two bounds."""
    if "min" in node.attributes:
        low = exact_of(_number(attribute(node, "min", 0.0)))
    if "max" in node.attributes:
        high = exact_of(_number(attribute(node, "max", 0.0)))
    for bound, pick in ((low, np.maximum), (high, np.minimum)):
        if bound is not None:
            (codes, limit), exponent, divisor = align(x, bound)
            x = Exact(np.asarray(pick(codes, limit)), exponent, divisor, x.same_in_float32)
    return x


def hard_sigmoid(node: ir.Node, x: Exact) -> Exact:
    """Return alpha·x + beta between 0 and 1."""
    return _gate(x, float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5)))


def hard_swish(node: ir.Node, x: Exact) -> Exact:
    """Return x times its HardSigmoid with alpha 1/6 and beta 1/2."""
    return multiply(x, _gate(x, 1 / 6, 0.5))


def _gate(x: Exact, alpha: float, beta: float) -> Exact:
    line = _sum([multiply(x, exact_of(_number(alpha))), exact_of(_number(beta))])
    (codes, one), exponent, divisor = align(line, exact_of(np.asarray(1.0)))
    return Exact(np.clip(codes, 0, one), exponent, divisor, line.same_in_float32)


def _number(value: float) -> Array:
    """Return an attribute as the float32 it is."""
    return np.asarray(np.float32(value))


def add(node: ir.Node, *terms: Exact) -> Exact:
    """Return the sum of all operands, broadcast."""
    return _sum(list(terms))


def sub(node: ir.Node, a: Exact, b: Exact) -> Exact:
    """Return a − b, broadcast."""
    return _sum([a, neg(node, b)])


def _sum(terms: list[Exact]) -> Exact:
    codes, exponent, divisor = align(*terms)
    reach = sum(largest(c) for c in codes)
    same = all(t.same_in_float32 for t in terms) and reach <= FLOAT32_INTEGERS
    return Exact(reduce(np.add, codes), exponent, divisor, same)


def mul(node: ir.Node, a: Exact, b: Exact) -> Exact:
    """Return a·b, broadcast."""
    return multiply(a, b)


def maximum(node: ir.Node, *terms: Exact) -> Exact:
    """Return the largest operand, broadcast."""
    return _picked(np.maximum, terms)


def minimum(node: ir.Node, *terms: Exact) -> Exact:
    """Return the smallest operand, broadcast."""
    return _picked(np.minimum, terms)


def _picked(pick: Callable[[Array, Array], Array], terms: tuple[Exact, ...]) -> Exact:
    codes, exponent, divisor = align(*terms)
    return Exact(reduce(pick, codes), exponent, divisor, all(t.same_in_float32 for t in terms))


def neg(node: ir.Node, x: Exact) -> Exact:
    """Return −x."""
    return Exact(-x.codes, x.exponent, x.divisor, x.same_in_float32)


def absolute(node: ir.Node, x: Exact) -> Exact:
    """Return |x|."""
    return Exact(np.abs(x.codes), x.exponent, x.divisor, x.same_in_float32)
