"""Add, Sub, Sum, Mean, Max, Min, Where: operands and result share their classes, channel by channel.

A constant operand is rescaled with the result, expanded to one value a channel if it must be. Where an operand is
broadcast, the classes it meets along the broadcast axis become one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import PINNED, ClassBuilder, Ids
from equiquant.equalization.rules.linear import refuse
from equiquant.graph import query

__all__ = ["spread", "union", "where"]


def spread(builder: ClassBuilder, value: ir.Value, rank: int) -> Ids | None:
    """Return a tensor's ids at `rank` dimensions, one class along every axis where the tensor is broadcast.

    None if the shape is not known well enough to tell.
    """
    ids = builder.ids(value)
    if ids.ndim == 0:
        return ids
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


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
    foreign = any(v not in builder.values for v in tensors)
    if rank is None or not tensors or foreign or any(query.rank(v) is None for v in tensors):
        return refuse(builder, node, "an operand's shape is unknown or the caller can change it")
    result: Ids = np.zeros((1,) * rank, dtype=np.int64)
    parts = [spread(builder, v, rank) for v in tensors]
    ids = [p for p in parts if p is not None]
    shape = np.broadcast_shapes(*(p.shape for p in ids), result.shape)
    result = np.broadcast_to(ids[0], shape)
    for part in ids[1:]:
        builder.unite(result, part)
    for index, value in operands:
        if query.constant(value) is not None:
            builder.slot(node, index, result, PINNED, "bias")
    return builder.set(out, np.ascontiguousarray(result))
