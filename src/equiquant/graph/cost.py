"""What a layer costs: the multiplications of one sample, from inferred shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.graph import query

__all__ = ["multiplications"]

UNKNOWN = 32  # stands for a dynamic dimension behind the batch


def multiplications(node: ir.Node) -> float:
    """Return the multiplications of a layer with constant weights for one sample, 0 for any other node.

    An unknown dimension counts as 32.
    """
    if node.op_type not in query.LINEAR_OPS:
        return 0.0
    spread = node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0]  # what meets the weights by channel
    shape = None if spread is None else query.static_shape(spread)
    weight = query.constant(node.inputs[1])
    if shape is None or weight is None or weight.ndim < 2:
        return 0.0
    elements = np.prod([UNKNOWN if d is None else d for d in shape[1:]], dtype=np.float64)
    first = node.op_type in ("Conv", "ConvTranspose") or bool(query.attribute(node, "transB", 0))
    return float(elements * weight.size / max(weight.shape[0 if first else -1], 1))
