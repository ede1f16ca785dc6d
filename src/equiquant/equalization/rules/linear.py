"""Conv, ConvTranspose, Gemm, MatMul: W'[o, i] = W[o, i] · e^(z_out(o) − z_in(i)), b' = b · e^(z_out)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import PINNED, ClassBuilder, Ids, widen
from equiquant.graph import query

__all__ = ["conv", "conv_transpose", "gemm", "matmul"]


def conv(builder: ClassBuilder, node: ir.Node) -> None:
    """Weight (O, I/groups, k…), input and output channels on axis 1."""
    weight = query.constant(node.inputs[1])
    if weight is None:
        return builder.refuse(node, "its weight is not a constant")
    groups = int(query.attribute(node, "group", 1))
    out_size, per_group = weight.shape[:2]
    in_ids = builder.channels(builder.ids(node.inputs[0]), 1, per_group * groups).reshape(groups, per_group)
    out = builder.fresh(out_size, weight.ndim, 1)
    kernel = (1,) * (weight.ndim - 2)
    gain = out.reshape(out_size, 1, *kernel)
    loss = in_ids if groups == 1 else np.repeat(in_ids, out_size // groups, axis=0)
    builder.slot(node, 1, gain, loss.reshape(len(loss), per_group, *kernel), "weight", groups)
    builder.set(node.outputs[0], out)
    _bias(builder, node, 2, out.reshape(-1))
    return None


def conv_transpose(builder: ClassBuilder, node: ir.Node) -> None:
    """Weight (I, O/groups, k…): input channel i of group g reaches the O/groups output channels of g."""
    weight = query.constant(node.inputs[1])
    if weight is None:
        return builder.refuse(node, "its weight is not a constant")
    groups = int(query.attribute(node, "group", 1))
    in_size, per_group = weight.shape[:2]
    in_ids = builder.channels(builder.ids(node.inputs[0]), 1, in_size)
    out = builder.fresh(per_group * groups, weight.ndim, 1)
    kernel = (1,) * (weight.ndim - 2)
    gain = out.reshape(groups, per_group)
    gain = gain if groups == 1 else np.repeat(gain, in_size // groups, axis=0)
    loss = in_ids.reshape(in_size, 1, *kernel)
    builder.slot(node, 1, gain.reshape(len(gain), per_group, *kernel), loss, "weight", groups, 1)
    builder.set(node.outputs[0], out)
    _bias(builder, node, 2, out.reshape(-1))
    return None


def gemm(builder: ClassBuilder, node: ir.Node) -> None:
    """Y = alpha · A · B + beta · C with B constant; transA and transB move the axes, alpha and beta change nothing."""
    weight = query.constant(node.inputs[1])
    if weight is None:
        return builder.refuse(node, "its second operand is not a constant")
    transposed = bool(query.attribute(node, "transB", 0))
    in_axis = 0 if query.attribute(node, "transA", 0) else 1
    in_size, out_size = weight.shape[::-1] if transposed else weight.shape
    in_ids = builder.channels(builder.ids(node.inputs[0]), in_axis, in_size)
    out = builder.fresh(out_size, 2, 1)
    if transposed:
        builder.slot(node, 1, out.reshape(-1, 1), in_ids.reshape(1, -1), "weight")
    else:
        builder.slot(node, 1, out.reshape(1, -1), in_ids.reshape(-1, 1), "weight", out_axis=1)
    builder.set(node.outputs[0], out)
    _bias(builder, node, 2, out)
    return None


def matmul(builder: ClassBuilder, node: ir.Node) -> None:
    """Couple x · W with W (K, N), or W · x with W (M, K): one constant matrix, the other operand of any rank.

    Of two tensors, one whose scale is fixed (attention weights) passes on the rows or columns of the other.
    """
    left, right = node.inputs
    rank = query.rank(node.outputs[0])
    if rank is None or rank < 2:
        return builder.refuse(node, "its rank is unknown, or a product with a vector")
    weight = query.constant(right)
    if weight is not None and weight.ndim == 2:
        in_ids = builder.channels(builder.ids(left), -1, weight.shape[0])
        out = builder.fresh(weight.shape[1], rank, rank - 1)
        builder.slot(node, 1, out.reshape(1, -1), in_ids.reshape(-1, 1), "weight", out_axis=1)
        return builder.set(node.outputs[0], out)
    weight = query.constant(left)
    if weight is not None and weight.ndim == 2:
        in_ids = builder.channels(builder.ids(right), -2, weight.shape[1])
        out = builder.fresh(weight.shape[0], rank, rank - 2)
        builder.slot(node, 0, out.reshape(-1, 1), in_ids.reshape(1, -1), "weight")
        return builder.set(node.outputs[0], out)
    for carrier, fixed, contracted in ((right, left, -2), (left, right, -1)):
        if carrier is not None and query.rank(carrier) is not None and builder.is_fixed(builder.ids(fixed)):
            return _pass_through(builder, node, builder.ids(carrier), contracted, rank)
    return builder.refuse(node, "neither operand is a constant matrix or has a fixed scale")


def _pass_through(builder: ClassBuilder, node: ir.Node, ids: Ids, contracted: int, rank: int) -> None:
    """The axis summed over becomes one class, the others go on to the result."""
    ids = builder.collapse(ids, tuple(a for a in range(ids.ndim) if a != contracted % ids.ndim) if ids.ndim else ())
    if ids.ndim > rank:  # the other operand is a vector, and the axis gone
        ids = np.squeeze(ids, axis=contracted % ids.ndim)
    builder.set(node.outputs[0], widen(ids, rank))


def _bias(builder: ClassBuilder, node: ir.Node, index: int, gain: Ids) -> None:
    """A constant bias absorbs the output's scale; a computed one must share it."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return
    if query.constant(value) is not None:
        builder.slot(node, index, gain, PINNED, "bias")
    else:
        builder.unite(builder.ids(value), gain)
