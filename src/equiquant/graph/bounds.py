"""The range that values cannot leave, as far as the ops tell that make them."""

from __future__ import annotations

import math

import onnx_ir as ir

from equiquant.graph.query import clip_ends

__all__ = ["clip_bounds", "lower_bound"]

_BOUNDS = {"Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
_WITHIN = frozenset({"AveragePool", "GlobalAveragePool", "Identity", "MaxPool", "Transpose"})
"""Op types whose results lie between the least and the largest of what they read, or between these and 0."""


def clip_bounds(node: ir.Node) -> tuple[float, float]:
    """Return the range a node's output cannot leave, as far as its op tells."""
    if node.domain != "":
        return -math.inf, math.inf
    if node.op_type == "Clip":
        low, high = clip_ends(node)
        return (-math.inf if low is None else low), (math.inf if high is None else high)
    return _BOUNDS.get(node.op_type, (-math.inf, math.inf))


def lower_bound(value: ir.Value) -> float:
    """Return a number, 0 or less, that no element of a value is below; −∞ where the ops tell none."""
    node = value.producer()
    while node is not None and node.op_type in _WITHIN and node.domain == "":
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return -math.inf if node is None else min(0.0, clip_bounds(node)[0])
