"""Mul, Div, Add or Sub of a per-channel constant into the Conv, ConvTranspose, Gemm or MatMul before it.

x·c: W' = c∘W, b' = c∘b;  x + c: b' = b + c. The constant may be a scalar or vary along the channels only. The Add right
after a MatMul is its bias and stays.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.absorb import AfterLinear, IntoPrevious
from equiquant.canonical.affine import ARITHMETIC_OPS, arithmetic_at
from equiquant.canonical.linear import linear_producing

__all__ = ["FoldScale"]


class FoldScale(IntoPrevious):
    """Linear operator, then arithmetic with a constant."""

    name = "fold_scale"
    op_types = ARITHMETIC_OPS

    def pattern(self, node: ir.Node) -> AfterLinear | None:
        """Match arithmetic with a constant on what a linear operator computes."""
        affine = arithmetic_at(node)
        linear = None if affine is None else linear_producing(affine.source)
        if affine is None or linear is None or linear_producing(affine.output) is not None:
            return None
        return AfterLinear(affine, linear)
