"""Adjoints of normalizations.

    BatchNormalization      g·γ/√(σ² + ε), the statistics being constants at inference
    Layer-, Instance-       x̂ = (x − μ)/√(var + ε), h = g·γ:  (h − mean(h) − x̂·mean(h·x̂))/√(var + ε)
    Softmax, LogSoftmax     y·(g − Σ g·y),  g − e^y·Σ g

Source: Ba, Kiros, Hinton, Layer Normalization, arXiv:1607.06450; the ONNX operator specification.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from equiquant.backward.tape import Tape, first, operand, shape
from equiquant.graph import query

__all__ = ["batch_normalization", "instance_normalization", "layer_normalization", "log_softmax", "softmax"]

Gradients = Sequence[ir.Value | None]


def batch_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """BatchNormalization at inference; in training mode its input counts as an output."""
    x, g = operand(node, 0), gradients[0]
    if g is None or query.attribute(node, "training_mode", 0):
        return tape.stop(*node.inputs)
    tape.stop(*node.inputs[1:])
    epsilon = tape.number(float(query.attribute(node, "epsilon", 1e-5)))
    factor = tape.op("Div", node.inputs[1], tape.op("Sqrt", tape.op("Add", node.inputs[4], epsilon)))
    shaped = tape.reshape(factor, [-1] + [1] * (len(shape(x)) - 2))
    return tape.send(x, tape.op("Mul", g, shaped))


def layer_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """LayerNormalization; its input counts as an output if the mean or the deviation is used as well."""
    x, scale, g = operand(node, 0), operand(node, 1), gradients[0]
    if g is None or any(other is not None for other in gradients[1:]):
        return tape.stop(*node.inputs)
    rank = len(shape(x))
    axes = list(range(int(query.attribute(node, "axis", -1)) % rank, rank))
    tape.stop(*node.inputs[1:])
    return _normalized(tape, x, tape.op("Mul", g, scale), axes, float(query.attribute(node, "epsilon", 1e-5)))


def instance_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """InstanceNormalization."""
    (x, g), scale = first(node, gradients), operand(node, 1)
    rank = len(shape(x))
    tape.stop(*node.inputs[1:])
    scaled = tape.op("Mul", g, tape.reshape(scale, [-1] + [1] * (rank - 2)))
    _normalized(tape, x, scaled, list(range(2, rank)), float(query.attribute(node, "epsilon", 1e-5)))


def _normalized(tape: Tape, x: ir.Value, h: ir.Value, axes: list[int], epsilon: float) -> None:
    share = tape.number(1 / math.prod(shape(x)[a] for a in axes))

    def mean(value: ir.Value) -> ir.Value:
        return tape.op("Mul", tape.sum(value, axes), share)

    centered = tape.op("Sub", x, mean(x))
    variance = mean(tape.op("Mul", centered, centered))
    inverse = tape.op("Reciprocal", tape.op("Sqrt", tape.op("Add", variance, tape.number(epsilon))))
    unit = tape.op("Mul", centered, inverse)
    along = tape.op("Mul", unit, mean(tape.op("Mul", h, unit)))
    tape.send(x, tape.op("Mul", inverse, tape.op("Sub", tape.op("Sub", h, mean(h)), along)))


def softmax(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Softmax along one axis."""
    (x, g), y = first(node, gradients), node.outputs[0]
    axis = int(query.attribute(node, "axis", -1)) % len(shape(x))
    tape.send(x, tape.op("Mul", y, tape.op("Sub", g, tape.sum(tape.op("Mul", g, y), [axis]))))


def log_softmax(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """LogSoftmax along one axis."""
    (x, g), y = first(node, gradients), node.outputs[0]
    axis = int(query.attribute(node, "axis", -1)) % len(shape(x))
    tape.send(x, tape.op("Sub", g, tape.op("Mul", tape.op("Exp", y), tape.sum(g, [axis]))))
