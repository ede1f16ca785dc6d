"""`ReplaceClip6Relu`: replace Clip(0, 6) by Relu. This changes the function; the caller measures by how much."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization.rules.clip import bounds
from equiquant.graph import query

__all__ = ["replace_clip6"]


def replace_clip6(model: ir.Model) -> list[Decision]:
    """Replace every Clip(0, 6) of the main graph by a Relu of the same name and output; any opset, bounds any form."""
    decisions = []
    for node in list(model.graph):
        if node.op_type != "Clip" or node.domain != "" or bounds(node) != (0.0, 6.0):
            continue
        source, out = node.inputs[0], node.outputs[0]
        relu = ir.node("Relu", [source], num_outputs=1, name=node.name)
        model.graph.insert_before(node, relu)
        new = relu.outputs[0]
        name, new.shape, new.type = out.name, out.shape, out.type
        out.replace_all_uses_with(new, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        new.name = name
        decisions.append(Decision("equalize", "replace_clip6_relu", query.label(relu), True, "Clip(0, 6) became Relu"))
    return decisions
