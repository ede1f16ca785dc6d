"""Clip(0, c): ReLU6 and its kin. min(s·x, c) = s·min(x, c) only while no value crosses the bound."""

from __future__ import annotations

import math

import onnx_ir as ir

from equiquant.equalization.builder import ClassBuilder, ClipSite
from equiquant.equalization.rules.linear import refuse
from equiquant.graph import query

__all__ = ["bounds", "clip"]


def bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return (min, max) of a Clip in any opset, infinite where absent, None if a bound is computed."""
    found: list[float] = []
    for index, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None:
            number = query.constant(value)
            if number is None or number.size != 1:
                return None
            found.append(float(number.reshape(())))
        else:
            found.append(float(query.attribute(node, name, default)))
    return found[0], found[1]


def clip(builder: ClassBuilder, node: ir.Node) -> None:
    """A Clip at 0 alone is a Relu; Clip(0, c) is noted as a `ClipSite`; other bounds are refused."""
    limits = bounds(node)
    ids = builder.ids(node.inputs[0])
    if limits == (0.0, math.inf) or limits == (-math.inf, math.inf) or limits == (-math.inf, 0.0):
        return builder.set(node.outputs[0], ids)
    if limits is None:
        return refuse(builder, node, "its bounds are not constants")
    low, high = limits
    if low != 0.0 or not high > 0.0:
        return refuse(builder, node, f"Clip({low:g}, {high:g}) is not a ReLU with an upper bound")
    builder.clips.append(ClipSite(node, ids, high))
    return builder.set(node.outputs[0], ids)
