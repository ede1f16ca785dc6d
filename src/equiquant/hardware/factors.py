"""The factors the NPU's fixed-point arithmetic brings with it.

It divides by no number of values: it multiplies their sum by an integer and shifts. Instead of a mean over n values it
computes sum · k / 2^s, which is the mean times n · k / 2^s. For windows of 3, 5, 6, 7 and 14 the pair (k, s) is fixed;
for others it is the closest fraction with s below 7 + ⌈log2 n⌉. HardSigmoid's slope of 1/6 is 2731 / 2^14.
Source: AMD Quark ONNX, options ConvertAvgPoolToDPUVersion, ConvertReduceMeanToDPUVersion and
ConvertHardSigmoidToDPUVersion, and the arithmetic of its DPU simulation.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from equiquant.graph.query import attribute, constant, integers, is_gate, rank, static_shape

__all__ = [
    "HARD_SIGMOID_FACTOR",
    "factor_of",
    "is_hardware_factor",
    "kernel_of",
    "mean_axes",
    "mean_factor",
    "pool_factor",
]

HARD_SIGMOID_FACTOR = 2731 / 2**14 * 6
LARGEST_KERNEL = 255  # beyond, the NPU does not pool
FIXED = {3: (7, 6), 5: (10, 8), 6: (7, 8), 7: (21, 10), 14: (21, 12)}  # side of the window -> (k, s)


def mean_factor(count: int) -> float:
    """Return n · k / 2^s of the closest k / 2^s to 1/n.

    >>> mean_factor(10) == 10 * 51 / 512
    True
    """
    shifts = range(7 + math.ceil(math.log2(count)))
    fractions = [float(round(2**s / count)) / 2.0**s for s in shifts]
    return min(fractions, key=lambda f: abs(f - 1 / count)) * count


def pool_factor(side: int) -> float:
    """Return the factor of a square window.

    >>> pool_factor(3)
    0.984375
    """
    if side in FIXED:
        k, s = FIXED[side]
        return float(side * side * k) / 2.0**s
    return mean_factor(side * side)


def kernel_of(node: ir.Node) -> tuple[int | None, ...] | None:
    """Return the window of an average pool, the whole input for a global one; None where that is unknown."""
    if node.op_type == "AveragePool":
        return tuple(attribute(node, "kernel_shape", ()))
    shape = None if node.inputs[0] is None else static_shape(node.inputs[0])
    return None if shape is None else shape[2:]


def mean_axes(node: ir.Node) -> list[int] | str:
    """Return the axes a ReduceMean averages over, from the front, none for an identity; or why that cannot be told."""
    if len(node.inputs) > 1 and node.inputs[1] is not None and constant(node.inputs[1]) is None:
        return "its axes are not constants"
    dimensions = None if node.inputs[0] is None else rank(node.inputs[0])
    if dimensions is None:
        return "its rank is unknown; fix the model's input shape"
    if axes := integers(node, 1, "axes"):
        return sorted(axis % dimensions for axis in axes)
    return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(dimensions))


def _factor_of_mean(node: ir.Node) -> float | str:
    axes = mean_axes(node)
    if isinstance(axes, str):
        return axes
    shape = None if node.inputs[0] is None else static_shape(node.inputs[0])
    sizes = [None if shape is None else shape[axis] for axis in axes]
    if None in sizes:
        return "how many values it averages is unknown; fix the model's input shape"
    count = math.prod(size for size in sizes if size is not None)
    return mean_factor(count) if count else "it averages no values"


def factor_of(node: ir.Node) -> float | str:
    """Return what the NPU multiplies the result of a node by, or why that cannot be told; 1 where it is exact."""
    if node.op_type == "HardSigmoid":
        if is_gate(node):
            return HARD_SIGMOID_FACTOR
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        return f"the NPU computes HardSigmoid with alpha 1/6 and beta 1/2 only, not {alpha:.4g} and {beta:.4g}"
    if node.op_type == "ReduceMean":
        return _factor_of_mean(node)
    kernel = kernel_of(node)
    if kernel is None or None in kernel:
        return "the size of its window is unknown; fix the model's input shape"
    if len(kernel) != 2 or kernel[0] != kernel[1]:
        size = " x ".join(map(str, kernel))
        return f"the documented factors are for square windows, and this one is {size}; it stays exact"
    assert kernel[0] is not None
    if kernel[0] > LARGEST_KERNEL:
        return f"the NPU has no window wider than {LARGEST_KERNEL}; it stays exact"
    return pool_factor(kernel[0])


def is_hardware_factor(node: ir.Node) -> bool:
    """True if a node is a Mul by the very factor that belongs to the operator before it."""
    if node.op_type != "Mul" or node.domain != "" or len(node.inputs) != 2:
        return False
    source, operand = node.inputs[0], constant(node.inputs[1])
    host = None if source is None else source.producer()
    if host is None or operand is None or operand.size != 1 or host.op_type not in HOSTS:
        return False
    factor = factor_of(host)
    return not isinstance(factor, str) and bool(np.asarray(factor).astype(operand.dtype) == operand.reshape(()))


HOSTS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "HardSigmoid"})
