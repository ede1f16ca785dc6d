"""BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before it.

With s = γ / √(σ² + ε): W' = s∘W, b' = s∘(b − μ) + β per output channel. Source: Jacob et al., arXiv:1712.05877, 3.2.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.absorb import AfterLinear, IntoPrevious
from equiquant.canonical.affine import batch_norm_at
from equiquant.canonical.linear import linear_producing

__all__ = ["FoldBatchNorm"]


class FoldBatchNorm(IntoPrevious):
    """Linear operator, then BatchNormalization."""

    name = "fold_batch_norm"
    op_types = frozenset({"BatchNormalization"})

    def pattern(self, node: ir.Node) -> AfterLinear | None:
        """Match a BatchNormalization whose input is computed by a linear operator."""
        affine = batch_norm_at(node)
        linear = None if affine is None else linear_producing(affine.source)
        return None if affine is None or linear is None else AfterLinear(affine, linear)
