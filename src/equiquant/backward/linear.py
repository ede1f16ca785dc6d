"""Adjoints of the linear layers: products with the transposed weight.

    Conv           ConvTranspose with the same weight, strides and pads; at stride 1 a Conv with the kernel reversed and
                   its channels exchanged, which onnxruntime runs twice as fast (but not for 1x1: no copy is made)
    ConvTranspose  Conv with the same weight, strides and pads
    Gemm, MatMul   G·Bᵀ for A and Aᵀ·G for B

Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from equiquant.backward.tape import Tape, first, operand, shape
from equiquant.graph import query
from equiquant.graph.windows import Window, same_begin, window

__all__ = ["conv", "conv_transpose", "gemm", "matmul", "transposed"]

Gradients = Sequence[ir.Value | None]


def conv(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Conv, 1-D to 3-D. A weight that is computed counts as an output."""
    (x, g), weight = first(node, gradients), operand(node, 1)
    tape.stop(weight)
    _bias(tape, node, g)
    if not tape.wants(x):
        return None
    sizes, kernel = shape(x), shape(weight)[2:]
    place = window(node, kernel, sizes[2:], shape(node.outputs[0])[2:])
    group = int(query.attribute(node, "group", 1))
    if all(s == 1 for s in place.strides) and (group > 1 or max(kernel) > 1):
        begins = [d * (k - 1) - b for k, d, b in zip(kernel, place.dilations, place.begins, strict=True)]
        ends = [d * (k - 1) - e for k, d, e in zip(kernel, place.dilations, place.ends, strict=True)]
        if min(begins + ends) >= 0:
            turned = _turned(tape, weight, group)
            pads, dilations = begins + ends, list(place.dilations)
            return tape.send(x, tape.op("Conv", g, turned, pads=pads, dilations=dilations, group=group))
    return tape.send(x, transposed(tape, g, weight, place, group))


def transposed(tape: Tape, g: ir.Value, weight: ir.Value, place: Window, group: int) -> ir.Value:
    """Append the ConvTranspose that undoes the walk of a window."""
    return tape.op(
        "ConvTranspose", g, weight, strides=list(place.strides), dilations=list(place.dilations), pads=place.pads,
        output_padding=place.left_out, group=group,
    )  # fmt: skip


def conv_transpose(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """ConvTranspose, 1-D to 3-D; pads as onnxruntime distributes them where `output_shape` is given."""
    (x, g), weight = first(node, gradients), operand(node, 1)
    tape.stop(weight)
    _bias(tape, node, g)
    if not tape.wants(x):
        return
    kernel, small, large = shape(weight)[2:], shape(x)[2:], shape(node.outputs[0])[2:]
    rank = len(kernel)
    place = window(node, kernel, large, small)
    mode = query.attribute(node, "auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in node.attributes:
        extra = query.attribute(node, "output_padding", None) or [0] * rank
        bare = Window(place.kernel, place.strides, place.dilations, (0,) * rank, place.inputs, place.outputs)
        totals = [max(e + p, 0) for e, p in zip(bare.ends, extra, strict=True)]
        begins = tuple(same_begin(total, mode) for total in totals)
        place = Window(place.kernel, place.strides, place.dilations, begins, place.inputs, place.outputs)
    back = tape.op(
        "Conv", g, weight, strides=list(place.strides), dilations=list(place.dilations), pads=place.pads,
        group=int(query.attribute(node, "group", 1)),
    )  # fmt: skip
    tape.send(x, back)


def gemm(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Gemm: alpha·op(A)·op(B) + beta·C."""
    (a, g), b = first(node, gradients), operand(node, 1)
    trans_a, trans_b = (int(query.attribute(node, name, 0)) for name in ("transA", "transB"))
    alpha = float(query.attribute(node, "alpha", 1.0))
    if tape.wants(a):
        one, other, ta, tb = (b, g, trans_b, 1) if trans_a else (g, b, 0, 1 - trans_b)
        tape.send(a, tape.op("Gemm", one, other, alpha=alpha, transA=ta, transB=tb))
    if tape.wants(b):
        one, other, ta, tb = (g, a, 1, trans_a) if trans_b else (a, g, 1 - trans_a, 0)
        tape.send(b, tape.op("Gemm", one, other, alpha=alpha, transA=ta, transB=tb))
    c = node.inputs[2] if len(node.inputs) > 2 else None
    if tape.wants(c):
        beta = float(query.attribute(node, "beta", 1.0))
        scaled = g if beta == 1.0 else tape.op("Mul", g, tape.number(beta))
        tape.send_broadcast(c, scaled, shape(node.outputs[0]))


def matmul(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """MatMul as numpy's: batches broadcast, vectors are a row on the left and a column on the right."""
    (a, g), b = first(node, gradients), operand(node, 1)
    left, right = shape(a), shape(b)
    rows, columns = ((1, *left) if len(left) == 1 else left), ((*right, 1) if len(right) == 1 else right)
    batch = np.broadcast_shapes(rows[:-2], columns[:-2])
    if min(len(left), len(right)) == 1:
        g = tape.reshape(g, (*batch, rows[-2], columns[-1]))
    if tape.wants(a) and len(right) == 2:
        flat = tape.op("Gemm", tape.reshape(g, [-1, columns[-1]]), b, transB=1)  # the weight is read as it is
        tape.send(a, tape.reshape(flat, left))
    elif tape.wants(a):
        other = b if len(right) > 1 else tape.reshape(b, columns)
        back = tape.op("MatMul", g, _swapped(tape, other, len(columns)))
        _send_product(tape, a, back, (*batch, *rows[-2:]), len(left) == 1)
    if tape.wants(b):
        other = a if len(left) > 1 else tape.reshape(a, rows)
        back = tape.op("MatMul", _swapped(tape, other, len(rows)), g)
        _send_product(tape, b, back, (*batch, *columns[-2:]), len(right) == 1)


def _send_product(tape: Tape, value: ir.Value, g: ir.Value, sizes: tuple[int, ...], vector: bool) -> None:
    if vector:
        g = tape.sum(g, range(len(sizes) - 2), keepdims=False)
        return tape.send(value, tape.reshape(g, shape(value)))
    return tape.send_broadcast(value, g, sizes)


def _swapped(tape: Tape, value: ir.Value, rank: int) -> ir.Value:
    order = [*range(rank - 2), rank - 1, rank - 2]
    return tape.op("Transpose", value, perm=order)


def _turned(tape: Tape, weight: ir.Value, group: int) -> ir.Value:
    """Return a (O, I/group, k) kernel as (I, O/group, k), reversed along every k."""
    outputs, inputs, *kernel = shape(weight)
    turned = weight
    if outputs != group or inputs != 1:
        split = tape.reshape(weight, (group, outputs // group, inputs, *kernel))
        swapped = tape.op("Transpose", split, perm=[0, 2, 1, *range(3, 3 + len(kernel))])
        turned = tape.reshape(swapped, (group * inputs, outputs // group, *kernel))
    axes = [2 + i for i, k in enumerate(kernel) if k > 1]
    if not axes:
        return turned
    backward = tape.ints([-1] * len(axes))
    return tape.op(
        "Slice", turned, backward, tape.ints([np.iinfo(np.int64).min] * len(axes)), tape.ints(axes), backward
    )


def _bias(tape: Tape, node: ir.Node, g: ir.Value) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if tape.wants(bias):
        rank = len(shape(node.outputs[0]))
        tape.send(bias, tape.sum(g, [0, *range(2, rank)], keepdims=False))
