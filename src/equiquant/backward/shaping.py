"""Adjoints of ops that only move numbers: the gradient moves back, and adds up where a number was used twice.

Where no op is the plain inverse, the op itself is run on the positions 0, 1, 2, … of its input; the gradient is then
added up at the positions that come out (ScatterElements).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from equiquant.backward.tape import Tape, first, operand, shape
from equiquant.graph import query

__all__ = [
    "concat",
    "depth_to_space",
    "expand",
    "gather",
    "pad",
    "reshape",
    "scatter",
    "slice_",
    "space_to_depth",
    "split",
    "tile",
    "transpose",
    "trilu",
]

Gradients = Sequence[ir.Value | None]


def scatter(tape: Tape, positions: ir.Value, g: ir.Value, sizes: Sequence[int]) -> ir.Value:
    """Append the sum of a gradient's elements at flat positions of a tensor of the given sizes."""
    zeros = tape.zeros([math.prod(sizes)])
    flat, values = tape.reshape(positions, [-1]), tape.reshape(g, [-1])
    return tape.reshape(tape.op("ScatterElements", zeros, flat, values, axis=0, reduction="add"), sizes)


def _moved(tape: Tape, node: ir.Node, g: ir.Value) -> None:
    """Send a gradient back to where the op took each element of its first input from."""
    x = operand(node, 0)
    tape.stop(*(v for v in node.inputs[1:] if v is not x))
    zero, one = (tape.constant(np.array(n, dtype=np.int64)) for n in (0, 1))
    count = tape.constant(np.array(math.prod(shape(x)), dtype=np.int64))
    positions = tape.reshape(tape.op("Range", zero, count, one), shape(x))
    tape.send(x, scatter(tape, tape.again(node, [positions, *node.inputs[1:]])[0], g, shape(x)))


def reshape(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    x, g = first(node, gradients)
    tape.send(x, tape.reshape(g, shape(x)))


def transpose(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Transpose by the inverse permutation."""
    x, g = first(node, gradients)
    order = query.attribute(node, "perm", None) or list(reversed(range(len(shape(x)))))
    tape.send(x, tape.op("Transpose", g, perm=[int(i) for i in np.argsort(order)]))


def concat(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Concat: each operand its slice."""
    _, g = first(node, gradients)
    axis = int(query.attribute(node, "axis", 0)) % len(shape(node.outputs[0]))
    start = 0
    for value in node.inputs:
        assert value is not None
        end = start + shape(value)[axis]
        if tape.wants(value):
            bounds = (tape.ints([n]) for n in (start, end, axis))
            tape.send(value, tape.op("Slice", g, *bounds))
        start = end


def split(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Split: the parts side by side, zeros for those no gradient reached."""
    x = operand(node, 0)
    axis = int(query.attribute(node, "axis", 0)) % len(shape(x))
    parts = [tape.zeros(shape(v)) if g is None else g for v, g in zip(node.outputs, gradients, strict=True) if v.shape]
    tape.send(x, tape.op("Concat", *parts, axis=axis))


def slice_(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Slice: zeros around it, at step 1 and constant bounds; by positions otherwise."""
    x, g = first(node, gradients)
    sizes = shape(x)
    found = [query.constant(v) for v in node.inputs[1:]]
    starts, ends = found[:2]
    axes = found[2] if len(node.inputs) > 3 and node.inputs[3] is not None else np.arange(len(shape(x)))
    steps = found[3] if len(node.inputs) > 4 and node.inputs[4] is not None else np.ones(len(sizes), dtype=np.int64)
    if starts is None or ends is None or axes is None or steps is None or (steps != 1).any():
        return _moved(tape, node, g)
    before, after = [0] * len(sizes), [0] * len(sizes)
    for start, end, axis in zip(starts, ends, axes, strict=False):
        begin, last, _ = slice(int(start), int(end)).indices(sizes[axis])
        before[axis % len(sizes)], after[axis % len(sizes)] = begin, sizes[axis] - max(begin, last)
    return tape.send(x, tape.op("Pad", g, tape.ints([*before, *after])))


def gather(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Gather, GatherElements, GatherND: by positions; Gather of a permutation by its inverse."""
    (x, g), indices = first(node, gradients), operand(node, 1)
    order = query.constant(indices)
    axis = int(query.attribute(node, "axis", 0)) % len(shape(x))
    if node.op_type == "Gather" and order is not None and order.ndim == 1:
        order = order % shape(x)[axis]
        if np.array_equal(np.sort(order), np.arange(shape(x)[axis])):
            return tape.send(x, tape.op("Gather", g, tape.ints(int(i) for i in np.argsort(order)), axis=axis))
    return _moved(tape, node, g)


def pad(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Pad with a constant: the pads negated; other modes by positions."""
    x, g = first(node, gradients)
    if query.attribute(node, "mode", "constant") != "constant":
        return _moved(tape, node, g)
    tape.stop(*node.inputs[2:3])
    return tape.send(x, tape.op("Pad", g, tape.op("Neg", node.inputs[1]), None, *node.inputs[3:4]))


def expand(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Expand: the copies add up."""
    x, g = first(node, gradients)
    tape.send_broadcast(x, g, shape(node.outputs[0]))


def tile(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Tile: the copies add up."""
    x, g = first(node, gradients)
    sizes = shape(x)
    split_ = [n for d, out in zip(sizes, shape(node.outputs[0]), strict=True) for n in (out // max(d, 1), d)]
    tape.send(x, tape.sum(tape.reshape(g, split_), range(0, len(split_), 2), keepdims=False))


def depth_to_space(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """DepthToSpace, both modes: SpaceToDepth, with the channels in the order of the mode."""
    x, g = first(node, gradients)
    block = int(query.attribute(node, "blocksize", 1))
    batch, channels, height, width = shape(x)
    cells = tape.reshape(g, (batch, channels // block**2, height, block, width, block))
    order = [0, 1, 3, 5, 2, 4] if query.attribute(node, "mode", "DCR") == "CRD" else [0, 3, 5, 1, 2, 4]
    tape.send(x, tape.reshape(tape.op("Transpose", cells, perm=order), shape(x)))


def space_to_depth(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """SpaceToDepth: DepthToSpace in its first mode."""
    x, g = first(node, gradients)
    block = int(query.attribute(node, "blocksize", 1))
    tape.send(x, tape.op("DepthToSpace", g, blocksize=block, mode="DCR"))


def trilu(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Trilu: the same triangle."""
    x, g = first(node, gradients)
    tape.send(x, tape.again(node, [g, *node.inputs[1:]])[0])
