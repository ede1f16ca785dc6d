"""Ops that multiply each channel by a constant: input and output classes are independent, one channel at a time.

BatchNormalization, y = scale·(x − mean)/σ + B: scale gains e^(z_out − z_in), mean gains e^(z_in), B gains e^(z_out).
LayerNormalization, y = scale·x̂ + B: the channels of the output are free, the input is pinned.
Mul and Div, y = x·c: c gains e^(z_out − z_in), inverted for a divisor.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import PINNED, ClassBuilder, Ids
from equiquant.equalization.rules.linear import channel_ids, refuse
from equiquant.graph import query

__all__ = ["batch_normalization", "div", "layer_normalization", "mul"]


def batch_normalization(builder: ClassBuilder, node: ir.Node) -> None:
    """BatchNormalization at inference, all four parameters constant."""
    parameters = [query.constant(v) for v in node.inputs[1:5]]
    rank = query.rank(node.inputs[0]) if node.inputs[0] is not None else None
    if query.attribute(node, "training_mode", 0) or rank is None or any(p is None for p in parameters):
        return refuse(builder, node, "BatchNormalization in training mode, of unknown rank or with computed parameters")
    size = parameters[0].size if parameters[0] is not None else 0
    in_ids = channel_ids(builder, builder.ids(node.inputs[0]), 1, size)
    out = builder.fresh(size, rank, 1)
    gain = out.reshape(-1)
    builder.slot(node, 1, gain, in_ids, "weight", groups=size)
    builder.slot(node, 2, gain, PINNED, "bias")
    builder.slot(node, 3, in_ids, PINNED, "factor")
    return builder.set(node.outputs[0], out)


def layer_normalization(builder: ClassBuilder, node: ir.Node) -> None:
    """The scale and bias of the last axis produce free channels; the statistics need the input as it is."""
    rank = query.rank(node.outputs[0])
    scale = query.constant(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    builder.pin(builder.ids(node.inputs[0]), node, "LayerNormalization mixes channels")
    constant_bias = bias is None or query.constant(bias) is not None
    last_axis_only = query.attribute(node, "axis", -1) in (-1, (rank or 0) - 1)
    for output in node.outputs:
        builder.set(output, PINNED)
    if scale is None or not constant_bias or rank is None or not last_axis_only or scale.ndim != 1 or scale.size < 2:
        return
    out = builder.fresh(scale.size, rank, rank - 1)
    builder.slot(node, 1, out.reshape(-1), PINNED, "weight", groups=scale.size)
    if bias is not None:
        builder.slot(node, 2, out.reshape(-1), PINNED, "bias")
    builder.set(node.outputs[0], out)


def mul(builder: ClassBuilder, node: ir.Node) -> None:
    """A constant factor couples channels one by one; of two tensors, one must be pinned (a gate)."""
    for index in (1, 0):
        factor = query.constant(node.inputs[index])
        if factor is not None:
            return _scale(builder, node, index, factor, inverse=False)
    left, right = (builder.ids(v) for v in node.inputs)
    rank = query.rank(node.outputs[0])
    ranks = [query.rank(v) for v in node.inputs if v is not None]
    if rank is not None and None not in ranks:
        for gate, carrier in ((right, left), (left, right)):
            if not gate.any():
                shape = np.broadcast_shapes((1,) * rank, carrier.shape)
                return builder.set(node.outputs[0], carrier.reshape(shape) if carrier.ndim else PINNED)
    return refuse(builder, node, "a product of two tensors, neither of them a gate of fixed scale")


def div(builder: ClassBuilder, node: ir.Node) -> None:
    """Division by a constant is a product; a computed divisor of fixed scale is a gate; anything else is refused."""
    numerator, divisor = node.inputs
    factor = query.constant(divisor)
    if factor is not None:
        return _scale(builder, node, 1, factor, inverse=True)
    rank = query.rank(node.outputs[0])
    if numerator in builder.values and rank is not None and not builder.ids(divisor).any():
        ids = builder.ids(numerator)
        return builder.set(node.outputs[0], ids.reshape((1,) * (rank - ids.ndim) + ids.shape) if ids.ndim else PINNED)
    return refuse(builder, node, "a quotient whose divisor has no fixed scale")


def _scale(builder: ClassBuilder, node: ir.Node, index: int, factor: np.ndarray, *, inverse: bool) -> None:
    """Couple the channels of y = x·c where c varies along x's channel axis alone; else pass x's classes on."""
    source = node.inputs[1 - index]
    rank = query.rank(node.outputs[0])
    if source is None or rank is None or query.rank(source) is None:
        return refuse(builder, node, "its shape is unknown")
    ids = builder.ids(source)
    ids = ids.reshape((1,) * (rank - ids.ndim) + ids.shape)
    shape = (1,) * (rank - factor.ndim) + factor.shape
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    same_axis = all(size == 1 or axis in axes for axis, size in enumerate(ids.shape))
    static = query.static_shape(source) or ()
    aligned = (1,) * (rank - len(static)) + static
    if len(axes) != 1 or not same_axis or axes[0] == 0 or aligned[axes[0]] != shape[axes[0]]:
        return builder.set(node.outputs[0], ids)
    (axis,) = axes
    out = builder.fresh(shape[axis], rank, axis)
    before: Ids = np.broadcast_to(ids, out.shape)
    new, old = out.reshape(factor.shape), before.reshape(factor.shape)
    gain, loss = (old, new) if inverse else (new, old)
    builder.slot(node, index, gain, loss, "factor" if inverse else "weight", groups=shape[axis])
    return builder.set(node.outputs[0], out)
