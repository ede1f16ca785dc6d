"""Pad with a list of axes: the same Pad over all axes.

onnxruntime's optimizer moves transposes through a Pad without moving its axes, and then fails at run time.
Source: ONNX operator specification, Pad (axes since version 18).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, own_constant
from equiquant.graph.query import constant, rank

__all__ = ["ExpandPad"]


class ExpandPad(Rule[ir.Node, npt.NDArray[np.int64]]):
    """Pad with axes."""

    name = "expand_pad"
    op_types = frozenset({"Pad"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match a Pad that names axes."""
        return node if len(node.inputs) > 3 and node.inputs[3] is not None else None

    def check(self, match: ir.Node) -> npt.NDArray[np.int64]:
        """Return the pads of all axes; refuse where they cannot be known."""
        source, pads, _, axes = match.inputs[:4]
        dimensions = None if source is None else rank(source)
        given, along = constant(pads), constant(axes)
        if dimensions is None or given is None or along is None:
            refuse("its rank, pads or axes are not known")
        full = np.zeros((2, dimensions), np.int64)
        full[:, along.ravel().astype(np.int64)] = given.reshape(2, -1)
        return full.reshape(-1)

    def rewrite(self, match: ir.Node, plan: npt.NDArray[np.int64], names: Names) -> str:
        """Write the pads of all axes, and leave the axes out."""
        own_constant(match, 1, plan, f"{match.name}_pads", names)
        match.resize_inputs(3)
        return "pads all axes"
