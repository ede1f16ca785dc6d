"""ConvertReduceMeanToGlobalAvgPool: the mean over all spatial axes, which are kept, is a GlobalAveragePool: exact.

Source: AMD Quark documentation; ONNX operator specification, ReduceMean and GlobalAveragePool.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names
from equiquant.graph.query import attribute, constant, rank
from equiquant.hardware.replace import described, replace_node

__all__ = ["ReduceMeanToPool"]


class ReduceMeanToPool(Rule[ir.Node, None]):
    """ReduceMean over height and width."""

    name = "reduce_mean_to_pool"
    op_types = frozenset({"ReduceMean"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match a ReduceMean over axes 2, 3, ... to the last; over others it is no pool."""
        source = node.inputs[0]
        dimensions = None if source is None else rank(source)
        axes = attribute(node, "axes", None)
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            given = constant(node.inputs[1])
            axes = None if given is None else given.reshape(-1).tolist()
        if dimensions is None or dimensions < 3 or not axes:
            return None
        return node if sorted(a % dimensions for a in axes) == list(range(2, dimensions)) else None

    def check(self, match: ir.Node) -> None:
        """Refuse a mean that drops the axes."""
        if not attribute(match, "keepdims", 1):
            refuse("it drops the axes it averages over; a pool keeps them (keepdims=1)")

    def rewrite(self, match: ir.Node, plan: None, names: Names) -> str:
        """Write the pool under the same node name."""
        pool = ir.node("GlobalAveragePool", [match.inputs[0]], name=match.name)
        replace_node(match, [pool], [described(pool, match.outputs[0], names.fresh(f"{match.name}_pool"))])
        return "now a GlobalAveragePool"
