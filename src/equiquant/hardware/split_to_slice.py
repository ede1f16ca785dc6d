"""ConvertSplitToSlice: each piece of a Split becomes a Slice: exact.

Source: AMD Quark documentation; ONNX operator specification, Split and Slice.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, add_initializer
from equiquant.graph.query import attribute, constant, static_shape
from equiquant.hardware.replace import described, replace_node

__all__ = ["SplitToSlice"]


class SplitToSlice(Rule[ir.Node, list[int]]):
    """Split along any axis."""

    name = "split_to_slice"
    op_types = frozenset({"Split"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match every Split."""
        return node

    def check(self, match: ir.Node) -> list[int]:
        """Return where the pieces end, or refuse where that is computed."""
        if len(match.inputs) > 1 and match.inputs[1] is not None:
            given = constant(match.inputs[1])
            if given is None:
                refuse("the sizes of its pieces are not constants")
            sizes = given.reshape(-1).tolist()
        else:
            sizes = attribute(match, "split", None) or _equal(match)
        return [int(end) for end in np.cumsum(sizes)]

    def rewrite(self, match: ir.Node, plan: list[int], names: Names) -> str:
        """Write one Slice for each piece; the first keeps the node's name."""
        graph = match.graph
        assert isinstance(graph, ir.Graph)
        axis = int(attribute(match, "axis", 0))
        bounds = [
            add_initializer(graph, names.fresh(f"{match.name}_{end}"), np.array([end], dtype=np.int64))
            for end in [0, *plan]
        ]
        over = add_initializer(graph, names.fresh(f"{match.name}_axis"), np.array([axis], dtype=np.int64))
        slices = []
        for index, (start, end, out) in enumerate(zip(bounds[:-1], bounds[1:], match.outputs, strict=True)):
            name = match.name if index == 0 else names.fresh(f"{match.name}_{out.name}")
            piece = ir.node("Slice", [match.inputs[0], start, end, over], name=name)
            described(piece, out, names.fresh(f"{out.name}_slice"))
            slices.append(piece)
        replace_node(match, slices, [piece.outputs[0] for piece in slices])
        return f"now {len(slices)} Slices"


def _equal(node: ir.Node) -> list[int]:
    """Return the sizes of pieces that are equal but for the last."""
    shape = None if node.inputs[0] is None else static_shape(node.inputs[0])
    length = None if shape is None else shape[int(attribute(node, "axis", 0))]
    if length is None:
        refuse("the length it splits is unknown; fix the model's input shape")
    count = len(node.outputs)
    size = -(-length // count)
    return [min(size, length - size * i) for i in range(count)]
