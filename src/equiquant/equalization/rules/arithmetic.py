"""Add, Sub, Sum, Mean, Max, Min, Where: operands and result share their classes, channel by channel.

A constant operand is rescaled with the result, expanded to one value a channel if it must be. Where an operand is
broadcast, the classes it meets along the broadcast axis become one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import PINNED, ClassBuilder, widen
from equiquant.graph import query

__all__ = ["union", "where"]


def union(builder: ClassBuilder, node: ir.Node) -> None:
    """Unite the classes of all tensor operands; constants absorb the result's scale."""
    _unite(builder, node, [(i, v) for i, v in enumerate(node.inputs) if v is not None])


def where(builder: ClassBuilder, node: ir.Node) -> None:
    """Where(condition, x, y): x, y and the result share classes; the condition is not looked at."""
    _unite(builder, node, [(i, v) for i, v in enumerate(node.inputs) if v is not None and i > 0])


def _unite(builder: ClassBuilder, node: ir.Node, operands: list[tuple[int, ir.Value]]) -> None:
    out = node.outputs[0]
    rank = query.rank(out)
    tensors = [v for _, v in operands if query.constant(v) is None]
    if rank is None or any(query.rank(v) is None for v in tensors):
        return builder.refuse(node, "an operand's rank is unknown")
    if not tensors:
        return builder.refuse(node, "it computes with constants alone")
    parts = [widen(builder.ids(v), rank) for v in tensors]
    shape = np.broadcast_shapes((1,) * rank, *(p.shape for p in parts))
    result = np.array(np.broadcast_to(parts[0], shape))
    for part in parts[1:]:
        builder.unite(result, part)
    for index, value in operands:
        if query.constant(value) is not None:
            builder.slot(node, index, result, PINNED, "bias")
    return builder.set(out, result)
