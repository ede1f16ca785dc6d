"""What a layer costs: the multiplications of one sample, from inferred shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.graph import query

__all__ = ["WEIGHTED", "multiplications"]

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
    outputs = np.prod([UNKNOWN if d is None else d for d in shape[1:]], dtype=np.float64)
    channels = weight.shape[0] if node.op_type == "Conv" else weight.shape[1]
    return float(outputs * weight.size / max(channels, 1))
