"""Which tensors are never negative, as far as their ops tell.

These are the outputs of Relu, of Clip from 0, and of what pools, concatenates or moves nothing else. `UseUnsignedReLU`
gives them the whole range of their type.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.graph.bounds import clip_bounds
from equiquant.graph.query import constant
from equiquant.target.table.ops import activation_inputs, data_outputs, moves_data, row_of

__all__ = ["never_negative"]

KEEPING = frozenset({"Concat", "AveragePool", "GlobalAveragePool"})


def never_negative(model: ir.Model) -> frozenset[str]:
    """Return the names of the tensors that are never negative."""
    found: dict[ir.Value, None] = {}
    for node in model.graph:
        row = row_of(node)
        if row is None:
            continue
        if node.op_type in ("Relu", "Clip"):
            positive = clip_bounds(node)[0] >= 0
        elif moves_data(node) or node.op_type in KEEPING:
            positive = all(value in found or _constant(value) for _, value in activation_inputs(node, row))
        else:
            positive = False
        if positive:
            found |= dict.fromkeys(data_outputs(node))
    return frozenset(value.name or "" for value in found)


def _constant(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and bool((array >= 0).all())
