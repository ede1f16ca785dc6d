"""Ops that multiply each channel by a constant: input and output classes are independent, one channel at a time.

BatchNormalization, y = scale·(x − mean)/σ + B: scale gains e^(z_out − z_in), mean gains e^(z_in), B gains e^(z_out).
LayerNormalization, InstanceNormalization, y = scale·x̂ + B: the channels of the output are free, the input is pinned.
Mul and Div, y = x·c: c gains e^(z_out − z_in), inverted for a divisor. Of two tensors one keeps its scale, the gate,
and the result takes the classes of the other.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import PINNED, ClassBuilder, widen
from equiquant.graph import query

__all__ = ["batch_normalization", "div", "instance_normalization", "layer_normalization", "mul"]


def batch_normalization(builder: ClassBuilder, node: ir.Node) -> None:
    """BatchNormalization at inference, all four parameters constant."""
    scale, *others = (query.constant(v) for v in node.inputs[1:5])
    rank = query.rank(node.inputs[0]) if node.inputs[0] is not None else None
    if query.attribute(node, "training_mode", 0) or any(o.name for o in node.outputs[1:]):
        return builder.refuse(node, "BatchNormalization in training mode")
    if rank is None or scale is None or any(p is None for p in others):
        return builder.refuse(node, "its rank is unknown or a parameter is not a constant")
    before = builder.channels(builder.ids(node.inputs[0]), 1, scale.size)
    out = builder.fresh(scale.size, rank, 1)
    after = out.reshape(-1)
    builder.slot(node, 1, after, before, "weight", groups=scale.size)
    builder.slot(node, 2, after, PINNED, "bias")
    builder.slot(node, 3, before, PINNED, "factor")
    return builder.set(node.outputs[0], out)


def layer_normalization(builder: ClassBuilder, node: ir.Node) -> None:
    """The scale and bias of the last axis produce free channels; the statistics need the input as it is."""
    builder.refuse(node, "LayerNormalization mixes channels")
    out = node.outputs[0]
    rank = query.rank(out)
    scale = query.constant(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    last_axis_only = rank is not None and query.attribute(node, "axis", -1) in (-1, rank - 1)
    if scale is None or (bias is not None and query.constant(bias) is None) or not last_axis_only:
        return
    if rank is None or scale.ndim != 1 or scale.size < 2:
        return  # one value for all channels cannot absorb a scale of each
    _made_anew(builder, node, scale.size, rank, rank - 1)


def instance_normalization(builder: ClassBuilder, node: ir.Node) -> None:
    """The scale and bias of axis 1 produce free channels; ε is added to the variance of the input as it is."""
    builder.refuse(node, "InstanceNormalization adds its epsilon to the variance")
    scale, bias = (query.constant(v) for v in node.inputs[1:3])
    rank = query.rank(node.outputs[0])
    if scale is not None and bias is not None and rank is not None:
        _made_anew(builder, node, scale.size, rank, 1)


def _made_anew(builder: ClassBuilder, node: ir.Node, size: int, rank: int, axis: int) -> None:
    """Give the output free channels along an axis, which the second and third input absorb."""
    ids = builder.fresh(size, rank, axis)
    builder.slot(node, 1, ids.reshape(-1), PINNED, "weight", groups=size)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        builder.slot(node, 2, ids.reshape(-1), PINNED, "bias")
    builder.set(node.outputs[0], ids)


def mul(builder: ClassBuilder, node: ir.Node) -> None:
    """A constant factor couples channels one by one; of two tensors one is the gate."""
    for index in (1, 0):
        factor = query.constant(node.inputs[index])
        if factor is not None:
            return _scale(builder, node, index, factor, inverse=False)
    left, right = node.inputs
    assert left is not None
    assert right is not None
    return _gate(builder, node, *((right, left) if _is_gate(builder, left, right) else (left, right)))


def div(builder: ClassBuilder, node: ir.Node) -> None:
    """Division by a constant is a product; a computed divisor is a gate."""
    numerator, divisor = node.inputs
    assert numerator is not None
    assert divisor is not None
    factor = query.constant(divisor)
    if factor is not None:
        return _scale(builder, node, 1, factor, inverse=True)
    return _gate(builder, node, numerator, divisor)


def _gate(builder: ClassBuilder, node: ir.Node, carrier: ir.Value, gate: ir.Value) -> None:
    """The result takes the classes of `carrier`; `gate` keeps its scale."""
    rank = query.rank(node.outputs[0])
    if rank is None or query.rank(carrier) is None:
        return builder.refuse(node, "an operand's rank is unknown")
    builder.pin(builder.ids(gate), node, "the gate of a product of two tensors")
    return builder.set(node.outputs[0], widen(builder.ids(carrier), rank))


def _is_gate(builder: ClassBuilder, left: ir.Value, right: ir.Value) -> bool:
    """True if it costs least to keep the scale of `left`: it is pinned anyway, or the smaller of the two."""
    for value, is_left in ((right, False), (left, True)):
        if builder.is_fixed(builder.ids(value)):
            return is_left
    a, b = (query.static_shape(v) or () for v in (left, right))
    rank = max(len(a), len(b))
    a, b = ((1,) * (rank - len(s)) + s for s in (a, b))
    return any(p == 1 and q != 1 for p, q in zip(a, b, strict=True))


def _scale(builder: ClassBuilder, node: ir.Node, index: int, factor: np.ndarray, *, inverse: bool) -> None:
    """Couple the channels of y = x·c where c varies along one axis alone, x's channels or one that c widens.

    Else pass x's classes on.
    """
    source = node.inputs[1 - index]
    rank = query.rank(node.outputs[0])
    static = query.static_shape(source) if source is not None else None
    if rank is None or static is None:
        return builder.refuse(node, "its rank is unknown")
    ids = widen(builder.ids(source), rank)
    shape = (1,) * (rank - factor.ndim) + factor.shape
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    other_axes = any(size > 1 and axis not in axes for axis, size in enumerate(ids.shape))
    aligned = (1,) * (rank - len(static)) + static
    if len(axes) != 1 or other_axes or axes[0] == 0 or aligned[axes[0]] not in (1, shape[axes[0]]):
        return builder.set(node.outputs[0], ids)
    (axis,) = axes
    out = builder.fresh(shape[axis], rank, axis)
    new, old = out.reshape(factor.shape), np.broadcast_to(ids, out.shape).reshape(factor.shape)
    gain, loss = (old, new) if inverse else (new, old)
    builder.slot(node, index, gain, loss, "factor" if inverse else "weight", groups=shape[axis])
    return builder.set(node.outputs[0], out)
