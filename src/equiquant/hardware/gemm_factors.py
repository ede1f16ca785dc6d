"""Gemm's alpha goes into B and its beta into C: exact, and what the limits of the NPU's shifters are about.

The NPU multiplies, adds and shifts; the positions of a layer's tensors say nothing of a further factor.
Source: ONNX operator specification, Gemm.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.linear import multiply
from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, own_constant
from equiquant.graph.query import attribute, constant, label

__all__ = ["GemmFactors", "gemm_factors"]

Array = npt.NDArray[Any]

OPERANDS = {"alpha": 1, "beta": 2}


def gemm_factors(node: ir.Node) -> dict[str, float]:
    """Return those of alpha and beta that multiply something by other than 1; none for other operators."""
    if node.op_type != "Gemm" or node.domain != "":
        return {}
    given = {name: float(attribute(node, name, 1.0)) for name, index in OPERANDS.items() if _operand(node, index)}
    return {name: factor for name, factor in given.items() if factor != 1.0}


class GemmFactors(Rule[ir.Node, dict[str, Array]]):
    """Gemm with an alpha or a beta."""

    name = "fold_gemm_factors"
    op_types = frozenset({"Gemm"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match a Gemm with a factor."""
        return node if gemm_factors(node) else None

    def check(self, match: ir.Node) -> dict[str, Array]:
        """Return the operands times their factors, or refuse where one is computed."""
        plan = {}
        for name, factor in gemm_factors(match).items():
            array = constant(match.inputs[OPERANDS[name]])
            if array is None:
                refuse(f"what its {name} multiplies is not a constant")
            plan[name] = multiply(array, factor, f"{name} times what it multiplies in '{label(match)}'")
        return plan

    def rewrite(self, match: ir.Node, plan: dict[str, Array], names: Names) -> str:
        """Write the operands; one that anything else reads is left alone and replaced by a new one."""
        for name, array in plan.items():
            index = OPERANDS[name]
            own_constant(match, index, array, f"{match.name}.{'weight' if index == 1 else 'bias'}", names)
            match.attributes.pop(name)
        return f"{' and '.join(plan)} multiplied into its constants"


def _operand(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
