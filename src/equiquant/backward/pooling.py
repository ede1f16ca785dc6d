"""Adjoints of pools and reductions: an average spreads its gradient, a maximum sends it where the maximum was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce as fold

import numpy as np
import onnx_ir as ir

from equiquant.backward.linear import transposed
from equiquant.backward.shaping import scatter
from equiquant.backward.tape import Tape, first, shape
from equiquant.graph import query
from equiquant.graph.windows import Window, window

__all__ = ["average_pool", "global_pool", "max_pool", "reduction"]

Gradients = Sequence[ir.Value | None]


def global_pool(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """GlobalAveragePool and GlobalMaxPool."""
    x, g = first(node, gradients)
    kind = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}[node.op_type]
    _reduced(tape, kind, x, node.outputs[0], g, list(range(2, len(shape(x)))))


def reduction(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """ReduceMean, -Sum, -Max, -Min, -L1, -L2, -SumSquare and -LogSumExp over constant axes."""
    x, g = first(node, gradients)
    axes, rank = query.integers(node, 1, "axes"), len(shape(x))
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        return tape.stop(x)
    if not axes:
        axes = [] if query.attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    kept = sorted(a % rank for a in axes)
    sizes = [1 if i in kept else d for i, d in enumerate(shape(x))]
    y = node.outputs[0]
    if not query.attribute(node, "keepdims", 1):
        g, y = tape.reshape(g, sizes), tape.reshape(y, sizes)
    return _reduced(tape, node.op_type, x, y, g, kept)


def _reduced(tape: Tape, kind: str, x: ir.Value, y: ir.Value, g: ir.Value, axes: list[int]) -> None:
    """Send the gradient of a reduction whose output `y` kept its rank."""
    sizes = shape(x)
    if not axes and kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
        return tape.send(x, g)
    if kind == "ReduceMean":
        g = tape.op("Mul", g, tape.number(1 / max(math.prod(sizes[a] for a in axes), 1)))
    if kind in ("ReduceMean", "ReduceSum"):
        return tape.send(x, tape.op("Expand", g, tape.ints(sizes)))
    if kind in ("ReduceMax", "ReduceMin"):  # equal elements share
        hit = tape.op("Cast", tape.op("Equal", x, y), to=int(ir.DataType.FLOAT))
        return tape.send(x, tape.op("Mul", hit, tape.op("Div", g, tape.sum(hit, axes))))
    slope = {
        "ReduceL1": lambda: tape.op("Sign", x),
        "ReduceL2": lambda: tape.finite(tape.op("Div", x, y)),
        "ReduceSumSquare": lambda: tape.op("Mul", x, tape.number(2.0)),
        "ReduceLogSumExp": lambda: tape.op("Exp", tape.op("Sub", x, y)),
    }[kind]()
    return tape.send(x, tape.op("Mul", g, slope))


def average_pool(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """AveragePool: ConvTranspose with ones, of the gradient divided by what each window was divided by.

    The divisor is the number of real elements in the window, counted here, over the average of ones, computed by the op
    itself: so every mode of counting pads is the runtime's own.
    """
    x, g = first(node, gradients)
    sizes, outputs = shape(x), shape(node.outputs[0])
    kernel = query.attribute(node, "kernel_shape", ())
    place = window(node, kernel, sizes[2:], outputs[2:])
    valid = fold(np.multiply.outer, _valid(place)).astype(np.float32)
    ones = tape.constant(np.ones((1, 1, *sizes[2:]), dtype=np.float32))
    average = tape.again(node, [ones])[0]
    share = tape.op("Div", average, tape.constant(np.maximum(valid, 1.0)))
    flat = tape.reshape(tape.op("Mul", g, share), (-1, 1, *outputs[2:]))  # channels as samples: groups are slow
    weight = tape.constant(np.ones((1, 1, *kernel), dtype=np.float32))
    tape.send(x, tape.reshape(transposed(tape, flat, weight, place, 1), sizes))


def _valid(place: Window) -> list[np.ndarray]:
    """Return, for each axis, how many real elements each window reads."""
    counts = []
    for axis, size in enumerate(place.inputs):
        first = np.arange(place.outputs[axis])[:, None] * place.strides[axis] - place.begins[axis]
        taps = first + np.arange(place.kernel[axis])[None] * place.dilations[axis]
        counts.append(((taps >= 0) & (taps < size)).sum(axis=1))
    return counts


def max_pool(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """MaxPool: added up at the flat positions the op reports, which also serves overlapping windows."""
    x, g = first(node, gradients)
    again = tape.again(node, [x], outputs=2)  # a second node, so that the first keeps its fast kernel
    producer = again[1].producer()
    assert producer is not None
    producer.attributes.pop("storage_order", None)
    tape.send(x, scatter(tape, again[1], g, shape(x)))
