"""Flatten, Softmax, Reshape back: one Softmax along the last axis.

Softmax before opset 13 worked on the input flattened to a matrix; the version converter spells that out. Where the
flattening kept the last axis whole, Softmax-13 along it is the same. Source: ONNX operator specification, Softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from equiquant.canonical.remove_identity import check_bypass
from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, bypass
from equiquant.graph.query import attribute, constant, rank, sole_consumer, static_shape

__all__ = ["Flattened", "UnflattenSoftmax"]


@dataclass(frozen=True, eq=False)
class Flattened:
    """The chain of nodes, and the tensor before it."""

    source: ir.Value
    flatten: ir.Node
    softmax: ir.Node
    reshape: ir.Node


class UnflattenSoftmax(Rule[Flattened, None]):
    """Softmax, LogSoftmax or Hardmax between a Flatten and the Reshape that undoes it."""

    name = "unflatten_softmax"
    op_types = frozenset({"Softmax", "LogSoftmax", "Hardmax"})

    def pattern(self, node: ir.Node) -> Flattened | None:
        """Match Flatten, Softmax along the last axis, Reshape to the shape before."""
        before = node.inputs[0]
        flatten = None if before is None else before.producer()
        reshape = sole_consumer(node.outputs[0])
        if flatten is None or reshape is None or flatten.op_type != "Flatten" or reshape.op_type != "Reshape":
            return None
        source = flatten.inputs[0]
        if source is None or attribute(node, "axis", -1) not in (1, -1) or not _restores(reshape, source):
            return None
        return Flattened(source, flatten, node, reshape)

    def check(self, match: Flattened) -> None:
        """Refuse where the flattening merged the last axis with others."""
        dimensions, axis = rank(match.source), attribute(match.flatten, "axis", 1)
        if dimensions is None or axis not in (dimensions - 1, -1):
            refuse("it works across several axes at once")
        check_bypass(match.reshape, match.softmax.outputs[0])

    def rewrite(self, match: Flattened, plan: None, names: Names) -> str:
        """Let the Softmax read the tensor as it is; the Flatten goes when nothing else reads it."""
        softmax, source = match.softmax, match.source
        softmax.replace_input_with(0, source)
        softmax.attributes.add(ir.AttrInt64("axis", -1))
        done = bypass(match.reshape, softmax.outputs[0])
        assert done, "check let a public source through"
        if not softmax.outputs[0].is_graph_output():  # a public shape is the one the model declares
            softmax.outputs[0].shape = source.shape
        return "works along the last axis without flattening"


def _restores(reshape: ir.Node, source: ir.Value) -> bool:
    target = reshape.inputs[1] if len(reshape.inputs) > 1 else None
    if target is None:
        return False
    maker = target.producer()
    if maker is not None and maker.op_type == "Shape":
        return maker.inputs[0] is source and not {"start", "end"} & set(maker.attributes)
    wanted, known = constant(target), static_shape(source)
    return wanted is not None and known is not None and wanted.tolist() == [-1 if d is None else d for d in known]
