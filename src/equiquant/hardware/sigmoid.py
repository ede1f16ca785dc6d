"""ConvertSigmoidToHardSigmoid: the NPU computes max(0, min(1, x/6 + 1/2)) instead of a Sigmoid.

Source: AMD Quark documentation; ONNX operator specification, HardSigmoid.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import Rule
from equiquant.graph.edit import Names
from equiquant.hardware.replace import described, replace_node

__all__ = ["SigmoidToHardSigmoid"]


class SigmoidToHardSigmoid(Rule[ir.Node, None]):
    """Sigmoid."""

    name = "dpu_sigmoid"
    op_types = frozenset({"Sigmoid"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match every Sigmoid."""
        return node

    def check(self, match: ir.Node) -> None:
        """There is nothing to refuse."""

    def rewrite(self, match: ir.Node, plan: None, names: Names) -> str:
        """Write the HardSigmoid under the same node name."""
        hard = ir.node("HardSigmoid", [match.inputs[0]], {"alpha": 1 / 6, "beta": 0.5}, name=match.name)
        replace_node(match, [hard], [described(hard, match.outputs[0], names.fresh(f"{match.name}_hard"))])
        return "now a HardSigmoid"
