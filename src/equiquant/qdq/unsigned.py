"""Store int8 weights as uint8: the same numbers, 128 higher, with a zero point 128 higher.

x86 processors without VNNI multiply uint8 by int8 in pairs whose sum onnxruntime keeps in 16 bits: 255·127·2 does not
fit, and what does not fit is cut off. Its kernels for uint8 weights add in 32 bits.
Source: onnxruntime, "Quantize ONNX models", section on U8S8 and saturation.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.graph.edit import Names, own_constant, set_initializer
from equiquant.graph.query import LINEAR_OPS, constant

__all__ = ["store_unsigned"]

SHIFT = 128


def store_unsigned(model: ir.Model) -> int:
    """Store every int8 weight of a QDQ model's layers as uint8, in place; return how many."""
    names = Names(model.graph)
    done = 0
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or not _is_weight(node.outputs[0]):
            continue
        stored = node.inputs[0]
        integers = None if stored is None else constant(stored)
        if stored is None or integers is None or integers.dtype != np.int8:
            continue
        set_initializer(stored, (integers.astype(np.int16) + SHIFT).astype(np.uint8))
        own_constant(node, 2, _zero(node), f"{stored.name}_zero_point", names)
        done += 1
    return done


def _is_weight(value: ir.Value) -> bool:
    uses = value.uses()
    return bool(uses) and all(use.node.op_type in LINEAR_OPS and use.idx == 1 for use in uses)


def _zero(node: ir.Node) -> np.ndarray:
    """Return the zero point, 128 higher, in the shape of the scale."""
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = None if given is None else constant(given)
    scale = constant(node.inputs[1]) if node.inputs[1] is not None else None
    assert scale is not None
    low = np.zeros(scale.shape, np.int16) if zero is None else zero.astype(np.int16)
    return np.asarray(low + SHIFT, dtype=np.uint8)
