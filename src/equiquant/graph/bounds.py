"""The range that values cannot leave, as far as the ops tell that make them."""

from __future__ import annotations

import math

import onnx_ir as ir

from equiquant.graph.query import attribute, clip_ends, constant

__all__ = ["clip_bounds", "value_bounds"]

_BOUNDS = {"Relu": (0.0, math.inf)}
_BOUNDS |= dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), (0.0, 1.0))
_BOUNDS |= dict.fromkeys(("Tanh", "Softsign", "Erf", "Sin", "Cos"), (-1.0, 1.0))
_AVERAGES = ("AveragePool", "GlobalAveragePool", "Resize")
_MOVES = ("Concat", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Transpose")
_WITHIN = frozenset((*_AVERAGES, *_MOVES))


def clip_bounds(node: ir.Node) -> tuple[float, float]:
    """Return the range a node's output cannot leave, as far as its op tells."""
    if node.domain != "":
        return -math.inf, math.inf
    if node.op_type == "Clip":
        low, high = clip_ends(node)
        high = math.inf if high is None else high
        return (-math.inf if low is None else min(low, high)), high  # the upper end is the stronger one
    return _BOUNDS.get(node.op_type, (-math.inf, math.inf))


def value_bounds(value: ir.Value) -> tuple[float, float]:
    """Return the numbers, 0 between them, that no element of a value is beyond; ±∞ where the ops tell none."""
    least, most, pending, seen = 0.0, 0.0, [value], set[ir.Value]()
    while pending and (least > -math.inf or most < math.inf):
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        node, array = value.producer(), constant(value)
        if array is not None:
            low, high = float(array.min(initial=0)), float(array.max(initial=0))
        elif node is not None and _stays_within(node):
            sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            pending += [source for source in sources if source is not None]
            continue
        else:
            low, high = (-math.inf, math.inf) if node is None else clip_bounds(node)
        least, most = min(least, low), max(most, high)
    return least, most


def _stays_within(node: ir.Node) -> bool:
    """True for an op whose results lie between the least and the largest of what it reads, or between these and 0.

    A window with dilations may hold nothing but padding, whose maximum is the lowest number there is.
    """
    if node.domain != "" or node.op_type not in _WITHIN:
        return False
    if node.op_type == "Resize":
        outside = attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        return attribute(node, "mode", "nearest") != "cubic" and not outside
    return all(d == 1 for d in attribute(node, "dilations", ()))
