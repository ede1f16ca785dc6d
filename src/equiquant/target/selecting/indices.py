"""What computes indices in float: nodes whose results only become integers of the types that indices have.

A position rounded to 8 bits reads from the wrong place, and one past the end of a tensor stops the model: 47 of 48 rows
becomes 48 where the step is 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from equiquant.graph.query import attribute, is_public
from equiquant.target.table.ops import has_weight

__all__ = ["BECOMES_INDEX", "index_nodes"]

BECOMES_INDEX = "its result becomes an integer, as an index does"
INDEX_TYPES = frozenset({ir.DataType.INT32, ir.DataType.INT64})


def index_nodes(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Return the nodes, layers with weights apart, that every reader turns into indices.

    Args:
        nodes: Those of a graph, in topological order.
    """
    found: set[ir.Node] = set()
    for node in reversed(nodes):
        if has_weight(node) or any(is_public(value) for value in node.outputs):
            continue
        readers = [use.node for value in node.outputs for use in value.uses()]
        if readers and all(reader in found or _to_index(reader) for reader in readers):
            found.add(node)
    return found


def _to_index(node: ir.Node) -> bool:
    return node.op_type == "Cast" and attribute(node, "to", None) in INDEX_TYPES
