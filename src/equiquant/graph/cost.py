"""What a layer costs: the multiplications of one sample, and the size of a tensor, from inferred shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.graph import query

__all__ = ["elements", "multiplications"]

UNKNOWN = 32  # stands for a dynamic dimension behind the batch
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def multiplications(node: ir.Node) -> float:
    """Return the multiplications of a layer with constant weights for one sample, 0 for any other node.

    An unknown dimension counts as 32.
    """
    if node.op_type not in WEIGHTED:
        return 0.0
    shape = query.static_shape(node.outputs[0])
    weight = query.constant(node.inputs[1])
    if shape is None or weight is None or weight.ndim < 2:
        return 0.0
    channels = weight.shape[0] if node.op_type == "Conv" else weight.shape[1]
    return elements(node.outputs[0]) * float(weight.size / max(channels, 1))


def elements(value: ir.Value) -> float:
    """Return the elements of a tensor for one sample, 0 if its rank is unknown; an unknown dimension counts as 32."""
    shape = query.static_shape(value)
    return 0.0 if shape is None else float(np.prod([UNKNOWN if d is None else d for d in shape[1:]], dtype=np.float64))
