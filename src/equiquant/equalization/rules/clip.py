"""Clip(0, c): ReLU6 and its kin. min(s·x, c) = s·min(x, c) only while no value crosses the bound."""

from __future__ import annotations

import math

import onnx_ir as ir

from equiquant.equalization.builder import PINNED, ClassBuilder, ClipSite, Ids
from equiquant.graph import query

__all__ = ["clip"]


def clip(builder: ClassBuilder, node: ir.Node) -> None:
    """A Clip at 0 alone is a Relu; Clip(0, c) is noted as a `ClipSite`; other bounds are refused."""
    ids = builder.ids(node.inputs[0])
    if not query.is_float(node.outputs[0]):
        return builder.refuse(node, "it clips integers")
    limits = query.clip_ends(node)
    if limits in ((0.0, math.inf), (-math.inf, math.inf), (-math.inf, 0.0)):
        return builder.set(node.outputs[0], ids)
    low, high = limits
    if low is None or high is None:
        return builder.refuse(node, "its bounds are not constants")
    if low != 0.0 or not high > 0.0:
        return builder.refuse(node, f"Clip({low:g}, {high:g}) is not a ReLU with an upper bound")
    builder.clips.append(ClipSite(node, ids, high, _bound_id(builder, node)))
    return builder.set(node.outputs[0], ids)


def _bound_id(builder: ClassBuilder, node: ir.Node) -> Ids:
    """Return an id for the bound, which absorbs its scale like any constant; class 0 for an attribute."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return PINNED
    own = builder.new(())
    builder.slot(node, 2, own, PINNED, "factor")
    return own
