"""ConvertClipToDPUVersion: the bounds of a Clip become whole numbers of an int8.

Source: AMD Quark documentation; off by default.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, add_initializer, set_input
from equiquant.graph.query import clip_ends

__all__ = ["ClipBounds"]

Bounds = tuple[float, float]

LOWEST, HIGHEST = -128, 127
NAMES = ("min", "max")


class ClipBounds(Rule[ir.Node, Bounds]):
    """Clip with a bound that is no whole number of an int8."""

    name = "dpu_clip"
    op_types = frozenset({"Clip"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match a Clip with a computed bound, or one to round."""
        return None if all(end is not None and _whole(end) == end for end in clip_ends(node)) else node

    def check(self, match: ir.Node) -> Bounds:
        """Refuse bounds that are computed."""
        low, high = clip_ends(match)
        if low is None or high is None:
            refuse("its bounds are not constants")
        return _whole(low), _whole(high)

    def rewrite(self, match: ir.Node, plan: Bounds, names: Names) -> str:
        """Write the bounds: attributes where they were, else constants of this node's own."""
        graph = match.graph
        assert isinstance(graph, ir.Graph)
        for index, (name, bound) in enumerate(zip(NAMES, plan, strict=True), start=1):
            if not np.isfinite(bound):
                continue
            if name in match.attributes:
                match.attributes.add(ir.AttrFloat32(name, bound))
                continue
            old = match.inputs[index]
            assert old is not None
            dtype = np.float32 if old.dtype is None else old.dtype.numpy()
            value = add_initializer(graph, names.fresh(f"{match.name}_{name}"), np.asarray(bound, dtype=dtype))
            set_input(match, index, value)
        return f"bounds {plan[0]} and {plan[1]}"


def _whole(bound: float) -> float:
    return float(np.clip(np.rint(bound), LOWEST, HIGHEST)) if np.isfinite(bound) else bound
