"""How many entries the tables have that integer inputs pick from: made-up indices must stay below."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.graph.query import attribute, static_shape

__all__ = ["vocabularies"]

HANDING_ON = frozenset(
    {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
PICKING = frozenset({"Gather", "GatherElements"})


def vocabularies(model: ir.Model) -> dict[str, int]:
    """Return the entries of the smallest table that each input's numbers pick from, by its name; none where unknown."""
    found = {}
    for value in model.graph.inputs:
        pending, seen, least = [value], set[ir.Value](), []
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            for node, index in current.uses():
                if node.op_type in PICKING and index == 1:
                    shape = static_shape(node.inputs[0]) if node.inputs[0] is not None else None
                    axis = attribute(node, "axis", 0)
                    if shape and -len(shape) <= axis < len(shape) and shape[axis]:
                        least.append(shape[axis])
                elif node.op_type in HANDING_ON and index == 0:
                    pending += node.outputs
        if least:
            found[value.name or ""] = min(least)
    return found
