"""Adjoint of Resize: along each axis it multiplies by a matrix, so the gradient is multiplied by its transpose.

The matrix is what the op itself makes of the identity, with its own attributes: every mode and coordinate convention is
the runtime's own. Nearest, linear and cubic interpolation are separable (ONNX operator Resize).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from equiquant.backward.tape import Tape, first, operand, shape
from equiquant.graph import query

__all__ = ["resize"]


def resize(tape: Tape, node: ir.Node, gradients: Sequence[ir.Value | None]) -> None:
    """Resize by scales or sizes; what crops, keeps an aspect ratio or only shifts an axis counts as an output."""
    x, g = first(node, gradients)
    crops = query.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    before, after = shape(x), shape(node.outputs[0])
    if crops or query.attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch" or _shifts(node):
        return tape.stop(x)
    axes = [int(a) % len(before) for a in query.attribute(node, "axes", None) or range(len(before))]
    for axis in axes:
        if before[axis] != after[axis]:
            g = _along(tape, g, _matrix(tape, node, axes.index(axis), before[axis], after[axis]), axis, len(before))
    return tape.send(x, g)


def _shifts(node: ir.Node) -> bool:
    """True if an axis keeps its size though its scale is not 1: onnxruntime interpolates it if another changes."""
    scales = query.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if scales is None or not scales.size:
        return False
    before, after = shape(operand(node, 0)), shape(node.outputs[0])
    axes = query.attribute(node, "axes", None) or range(len(before))
    return any(before[a] == after[a] and scale != 1 for a, scale in zip(axes, scales.ravel(), strict=True))


def _matrix(tape: Tape, node: ir.Node, index: int, before: int, after: int) -> ir.Value:
    """Append the op on the identity and return its (before, after) result."""
    unit = tape.constant(np.eye(before, dtype=np.float32)[None, None])
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if scales is not None and (not scales.shape or 0 not in shape(scales)):
        scale = tape.op("Slice", scales, tape.ints([index]), tape.ints([index + 1]))
        inputs = [unit, None, tape.op("Concat", tape.constant(np.ones(3, dtype=np.float32)), scale, axis=0)]
    else:
        inputs = [unit, None, None, tape.ints([1, 1, before, after])]
    resized = tape.again(node, inputs)[0]
    producer = resized.producer()
    assert producer is not None
    producer.attributes.pop("axes", None)
    return tape.reshape(resized, (before, after))


def _along(tape: Tape, g: ir.Value, matrix: ir.Value, axis: int, rank: int) -> ir.Value:
    """Append Σ_y g[…, y, …]·matrix[x, y] along one axis."""
    if axis == rank - 2:
        return tape.op("MatMul", matrix, g)
    turned = tape.op("Transpose", matrix, perm=[1, 0])
    if axis == rank - 1:
        return tape.op("MatMul", g, turned)
    order = [i for i in range(rank) if i != axis] + [axis]
    product = tape.op("MatMul", tape.op("Transpose", g, perm=order), turned)
    return tape.op("Transpose", product, perm=[int(i) for i in np.argsort(order)])
