"""ConvertLeakyReluToDPUVersion: the slope becomes the nearest n/256, such as 26/256 for 0.1.

Source: AMD Quark documentation.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names
from equiquant.graph.query import attribute

__all__ = ["LeakyReluSlope"]

STEPS = 256


class LeakyReluSlope(Rule[ir.Node, float]):
    """LeakyRelu with a slope the NPU does not have."""

    name = "dpu_leaky_relu"
    op_types = frozenset({"LeakyRelu"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match a slope that is no multiple of 1/256."""
        slope = float(attribute(node, "alpha", 0.01))
        return node if not math.isfinite(slope) or round(slope * STEPS) / STEPS != slope else None

    def check(self, match: ir.Node) -> float:
        """Return the nearest slope, half to even; refuse one that is not finite."""
        slope = float(attribute(match, "alpha", 0.01))
        if not math.isfinite(slope):
            refuse("its slope is not finite")
        return round(slope * STEPS) / STEPS

    def rewrite(self, match: ir.Node, plan: float, names: Names) -> str:
        """Write the slope."""
        before = float(attribute(match, "alpha", 0.01))
        match.attributes.add(ir.AttrFloat32("alpha", plan))
        return f"slope {before:.5g} → {round(plan * STEPS)}/{STEPS}"
