"""ConvertReduceMeanToGlobalAvgPool: the mean over all spatial axes, which are kept, is a GlobalAveragePool: exact.

Source: AMD Quark documentation; ONNX operator specification, ReduceMean and GlobalAveragePool.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names
from equiquant.graph.query import attribute, rank
from equiquant.hardware.factors import mean_axes
from equiquant.hardware.replace import described, replace_node

__all__ = ["ReduceMeanToPool"]


class ReduceMeanToPool(Rule[ir.Node, None]):
    """ReduceMean over height and width."""

    name = "reduce_mean_to_pool"
    op_types = frozenset({"ReduceMean"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match a ReduceMean over axes 2, 3, ... to the last, or unknown ones; over others it is no pool."""
        axes = mean_axes(node)
        if isinstance(axes, str):
            return node
        dimensions = None if node.inputs[0] is None else rank(node.inputs[0])
        return node if axes and axes == list(range(2, dimensions or 0)) else None

    def check(self, match: ir.Node) -> None:
        """Refuse a mean that drops the axes, or whose axes are unknown."""
        axes = mean_axes(match)
        if isinstance(axes, str):
            refuse(axes)
        if not attribute(match, "keepdims", 1):
            refuse("it drops the axes it averages over; a pool keeps them (keepdims=1)")

    def rewrite(self, match: ir.Node, plan: None, names: Names) -> str:
        """Write the pool under the same node name."""
        pool = ir.node("GlobalAveragePool", [match.inputs[0]], name=match.name)
        replace_node(match, [pool], [described(pool, match.outputs[0], names.fresh(f"{match.name}_pool"))])
        return "now a GlobalAveragePool"
