"""Values whose size depends on numbers, not on sizes alone: two runs of them cannot be compared one by one.

They are what a non-maximum suppression leaves over, and what a decoder writes until it has written its last word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from equiquant.graph.query import constant, is_float, reads

__all__ = ["SIZES", "varying"]

COUNTING = frozenset({"NonMaxSuppression", "NonZero", "Compress", "Unique"})
SIZES = frozenset({"Shape", "Size"})
STEERED = {"Loop": (0, 1), "Range": (0, 1, 2)}
"""Op types whose results are as long as the numbers at these inputs say."""


def varying(model: ir.Model) -> set[ir.Value]:
    """Return the values whose size depends on numbers, not on sizes alone."""
    numbers = _from_floats(model.graph, ())
    found: set[ir.Value] = set()
    for node in model.graph:
        if _counts(node, numbers) or any(v in found for v in reads(node)):
            found.update(node.outputs)
    return found


def _counts(node: ir.Node, numbers: Collection[ir.Value]) -> bool:
    if node.domain != "":
        return False
    if node.op_type in COUNTING:
        return True
    if any(i < len(node.inputs) and node.inputs[i] in numbers for i in STEERED.get(node.op_type, ())):
        return True
    return node.op_type == "Loop" and _ends_by_numbers(node, numbers)


def _ends_by_numbers(node: ir.Node, numbers: Collection[ir.Value]) -> bool:
    """True if the body of a Loop tells from numbers whether it goes on."""
    body = node.attributes["body"].as_graph()
    return bool(body.outputs) and body.outputs[0] in _from_floats(body, numbers)


def _from_floats(graph: ir.Graph, known: Iterable[ir.Value]) -> set[ir.Value]:
    """Return the values of a graph that were computed from float inputs, and those known to be; sizes were not."""
    found = {*known, *(v for v in graph.inputs if is_float(v) and constant(v) is None)}
    for node in graph:
        if node.op_type not in SIZES and any(v in found for v in reads(node)):
            found.update(node.outputs)
    return found
