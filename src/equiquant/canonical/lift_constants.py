"""Constant nodes become initializers under the same name, so that a parameter is always found in one place."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import STAGE
from equiquant.decisions import Decision
from equiquant.graph.edit import add_initializer
from equiquant.graph.query import TEXT_KINDS, constant, label

__all__ = ["lift_constants"]

RULE = "lift_constants"


def lift_constants(model: ir.Model) -> list[Decision]:
    """Turn the Constant nodes of the main graph into initializers."""
    decisions = []
    graph = model.graph
    for node in [n for n in graph if n.op_type == "Constant" and n.domain == ""]:
        out, array = node.outputs[0], constant(node.outputs[0])
        if array is None or array.dtype.kind in TEXT_KINDS or out.is_graph_output():
            reason = "it is a graph output" if out.is_graph_output() else "it holds no dense numbers"
            decisions.append(Decision(STAGE, RULE, label(node), False, reason))
            continue
        assert out.name is not None
        value = add_initializer(graph, out.name, array)
        out.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        decisions.append(Decision(STAGE, RULE, label(node), True, f"now the initializer '{value.name}'"))
    return decisions
