"""BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul after it.

With s = γ / √(σ² + ε), t = β − μ·s per input channel: W' = W∘s, b' = b + W·t. A convolution that pads adds zeros where
t should be, so there the fold is exact only for t = 0. This is the last fold tried on a BatchNormalization: it also
reports one that has no linear operator on either side.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.absorb import BeforeLinear, IntoNext, linear_readers
from equiquant.canonical.affine import batch_norm_at
from equiquant.canonical.linear import Parameters, linear_producing
from equiquant.canonical.rule import refuse
from equiquant.graph.query import constant, label

__all__ = ["FoldBatchNormNext"]


class FoldBatchNormNext(IntoNext):
    """BatchNormalization, then linear operators."""

    name = "fold_batch_norm_next"
    op_types = frozenset({"BatchNormalization"})

    def pattern(self, node: ir.Node) -> BeforeLinear | None:
        """Match a BatchNormalization of what is computed, unless the fold into the operator before gave its reason."""
        affine = batch_norm_at(node)
        if affine is None or constant(affine.source) is not None:
            return None
        readers = linear_readers(affine.output)
        return None if not readers and linear_producing(affine.source) is not None else BeforeLinear(affine, readers)

    def check(self, match: BeforeLinear) -> tuple[Parameters, ...]:
        """Refuse where no linear operator is near."""
        if not match.readers:
            producer = match.affine.source.producer()
            origin = "a graph input" if producer is None else f"'{label(producer)}' ({producer.op_type})"
            refuse(f"it follows {origin} and no Conv, ConvTranspose, Gemm or MatMul reads its result")
        return super().check(match)
