"""ConvertBNToConv: a BatchNormalization no layer could absorb becomes a depthwise 1x1 Conv.

    y = s∘x + t,  s = γ / √(σ² + ε),  t = β − μ·s      is Conv with group = C, W[c] = s[c], b = t: exact

Source: AMD Quark documentation, ConvertBNToConv; ONNX operator specification, BatchNormalization and Conv.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.absorb import STANDARDIZES
from equiquant.canonical.affine import BatchNorm, batch_norm_at
from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, add_initializer
from equiquant.graph.input_scales import evens_out, is_from_input
from equiquant.graph.query import constant, rank
from equiquant.hardware.replace import described, replace_node

__all__ = ["BatchNormToConv"]

Array = npt.NDArray[Any]
Parameters = tuple[Array, Array]


class BatchNormToConv(Rule[BatchNorm, Parameters]):
    """BatchNormalization that is still there after folding."""

    name = "bn_to_conv"
    op_types = frozenset({"BatchNormalization"})

    def pattern(self, node: ir.Node) -> BatchNorm | None:
        """Match every BatchNormalization."""
        return batch_norm_at(node)

    def check(self, match: BatchNorm) -> Parameters:
        """Refuse parameters that are not constants, tensors a Conv does not take, and what an input's features need."""
        dimensions, gamma = rank(match.source), constant(match.node.inputs[1])
        if dimensions is None or dimensions < 3:
            refuse("a Conv needs at least one spatial axis" if dimensions else "its rank is unknown")
        if gamma is None:
            refuse("its parameters are not all constants")
        scale, shift = match.factors(1, dimensions, gamma.size)
        assert scale is not None
        assert shift is not None
        if evens_out(scale) and is_from_input(match.source):
            refuse(STANDARDIZES)
        weight = scale.astype(gamma.dtype).reshape(-1, *[1] * (dimensions - 1))
        return weight, shift.astype(gamma.dtype)

    def rewrite(self, match: BatchNorm, plan: Parameters, names: Names) -> str:
        """Write the Conv under the same node name."""
        node, graph = match.node, match.node.graph
        assert isinstance(graph, ir.Graph)
        weight, bias = (
            add_initializer(graph, names.fresh(f"{node.name}.{part}"), array)
            for part, array in zip(("weight", "bias"), plan, strict=True)
        )
        conv = ir.node("Conv", [match.source, weight, bias], {"group": len(plan[1])}, name=node.name)
        replace_node(node, [conv], [described(conv, match.output, names.fresh(f"{node.name}_conv"))])
        return "now a depthwise Conv"
