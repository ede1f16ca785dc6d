"""An affine map of the channels into the linear operator before it, or those after it, through what lies between.

Exporters leave a bias behind a residual sum or a Reshape, and networks normalize behind their Relu or before a pool.
Where the map commutes with all that lies between (`commuting`), it is folded like one right beside the operator.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.absorb import AfterLinear, BeforeLinear, IntoNext, IntoPrevious, Step, linear_readers
from equiquant.canonical.affine import ARITHMETIC_OPS, Affine, arithmetic_at, batch_norm_at
from equiquant.canonical.commuting import CARRIERS, SCALED, SHIFTED
from equiquant.canonical.linear import Linear, linear_producing
from equiquant.graph.query import sole_consumer

__all__ = ["FoldThrough", "FoldThroughNext"]

MAPS = ARITHMETIC_OPS | {"BatchNormalization"}


class FoldThrough(IntoPrevious):
    """Linear operator, operators the map commutes with, then the map."""

    name = "fold_through"
    op_types = MAPS

    def pattern(self, node: ir.Node) -> AfterLinear | None:
        """Match a map behind operators of which each is read by the next one alone, and the first is linear."""
        affine = _affine_at(node)
        found = None if affine is None else _way_back(affine.source, node, _passable(node))
        return None if affine is None or found is None or not found[1] else AfterLinear(affine, *found)


class FoldThroughNext(IntoNext):
    """The map, operators it commutes with, then linear operators."""

    name = "fold_through_next"
    op_types = MAPS

    def pattern(self, node: ir.Node) -> BeforeLinear | None:
        """Match a map before operators of which each is read by the next one alone, and the last by linear ones."""
        affine = _affine_at(node)
        passable = _passable(node)
        value, steps = node.outputs[0], list[Step]()
        while affine is not None and (reader := sole_consumer(value)) is not None and reader.op_type in passable:
            if reader.domain != "" or reader.op_type in ("Add", "Sum") or reader.inputs[0] is not value:
                return None
            steps.append((reader, 0))
            value = reader.outputs[0]
        readers = linear_readers(value) if steps else ()
        return BeforeLinear(affine, readers, tuple(steps)) if affine is not None and readers else None


def _affine_at(node: ir.Node) -> Affine | None:
    return batch_norm_at(node) if node.op_type == "BatchNormalization" else arithmetic_at(node)


def _passable(node: ir.Node) -> frozenset[str]:
    """Return the op types that may let the map of a node through."""
    return SCALED if node.op_type in ("Mul", "Div") else SHIFTED if node.op_type in ("Add", "Sub") else CARRIERS


def _way_back(value: ir.Value, reader: ir.Node, passable: frozenset[str]) -> tuple[Linear, tuple[Step, ...]] | None:
    """Return the linear operator behind a value that nothing but `reader` reads, once, and what lies between."""
    if sole_consumer(value) is not reader or len(tuple(value.uses())) != 1:
        return None
    linear = linear_producing(value)
    if linear is not None:
        return linear, ()
    node = value.producer()
    if node is None or node.op_type not in passable or node.domain != "" or value is not node.outputs[0]:
        return None
    operands = range(len(node.inputs)) if node.op_type in ("Add", "Sum") else range(1)
    for index in operands:
        source = node.inputs[index]
        found = None if source is None else _way_back(source, node, passable)
        if found is not None:
            return found[0], (*found[1], (node, index))
    return None
