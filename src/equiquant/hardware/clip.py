"""ConvertClipToDPUVersion: the bounds of a Clip become whole numbers of an int8.

Source: AMD Quark documentation; off by default.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, add_initializer, set_input
from equiquant.graph.query import attribute, constant

__all__ = ["ClipBounds"]

Bounds = tuple[float | None, float | None]

LOWEST, HIGHEST = -128, 127
NAMES = ("min", "max")


class ClipBounds(Rule[ir.Node, Bounds]):
    """Clip with a bound that is no whole number of an int8."""

    name = "dpu_clip"
    op_types = frozenset({"Clip"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match a Clip with a computed bound, or one to round."""
        found = _bounds(node)
        return None if found is not None and all(b is None or _whole(b) == b for b in found) else node

    def check(self, match: ir.Node) -> Bounds:
        """Refuse bounds that are computed."""
        found = _bounds(match)
        if found is None:
            refuse("its bounds are not constants")
        low, high = (None if b is None else _whole(b) for b in found)
        return low, high

    def rewrite(self, match: ir.Node, plan: Bounds, names: Names) -> str:
        """Write the bounds: attributes where they were, else constants of this node's own."""
        graph = match.graph
        assert isinstance(graph, ir.Graph)
        for index, (name, bound) in enumerate(zip(NAMES, plan, strict=True), start=1):
            if bound is None:
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
    return float(np.clip(np.rint(bound), LOWEST, HIGHEST))


def _bounds(node: ir.Node) -> list[float | None] | None:
    """Return both bounds, None for one that is not there; None if one is computed."""
    found: list[float | None] = []
    for index, name in enumerate(NAMES, start=1):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is None:
            given = attribute(node, name, None)
            found.append(None if given is None else float(given))
            continue
        number = constant(value)
        if number is None or number.size != 1:
            return None
        found.append(float(number.reshape(())))
    return found
