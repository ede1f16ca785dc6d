"""Mul, Div, Add or Sub of a per-channel constant into the Conv, ConvTranspose, Gemm or MatMul after it.

x·c: W' = W∘c;  x + c: b' = b + W·c, exact only where the operator does not pad its input with zeros.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.absorb import BeforeLinear, IntoNext, linear_readers
from equiquant.canonical.affine import ARITHMETIC_OPS, arithmetic_at
from equiquant.canonical.linear import linear_producing

__all__ = ["FoldScaleNext"]


class FoldScaleNext(IntoNext):
    """Arithmetic with a constant, then linear operators."""

    name = "fold_scale_next"
    op_types = ARITHMETIC_OPS

    def pattern(self, node: ir.Node) -> BeforeLinear | None:
        """Match arithmetic with a constant that a linear operator reads; a MatMul keeps its own bias."""
        affine = arithmetic_at(node)
        if affine is None or linear_producing(affine.output) is not None:
            return None
        readers = linear_readers(affine.output)
        return BeforeLinear(affine, readers) if readers else None
