"""Adjoints of elementwise functions of several tensors; operands that were broadcast get the sum over the copies."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from equiquant.backward.tape import Tape, first, operand, shape

__all__ = ["div", "extreme", "mul", "total", "where"]

Gradients = Sequence[ir.Value | None]


def total(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Add, Sub, Sum and Mean."""
    _, g = first(node, gradients)
    sizes = shape(node.outputs[0])
    if node.op_type == "Mean":
        g = tape.op("Mul", g, tape.number(1 / len(node.inputs)))
    for index, value in enumerate(node.inputs):
        if tape.wants(value):
            signed = tape.op("Neg", g) if node.op_type == "Sub" and index == 1 else g
            tape.send_broadcast(value, signed, sizes)


def mul(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Mul: each operand's gradient is multiplied by the other operand."""
    _, g = first(node, gradients)
    for value, other in zip(node.inputs, reversed(node.inputs), strict=True):
        if tape.wants(value):
            tape.send_broadcast(value, tape.op("Mul", g, other), shape(node.outputs[0]))


def div(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Div: g/b for the dividend, −g·y/b for the divisor."""
    (a, g), b = first(node, gradients), operand(node, 1)
    sizes = shape(node.outputs[0])
    if tape.wants(a) or tape.wants(b):
        ratio = tape.op("Div", g, b)
        tape.send_broadcast(a, ratio, sizes)
        if tape.wants(b):
            tape.send_broadcast(b, tape.op("Neg", tape.op("Mul", ratio, node.outputs[0])), sizes)


def extreme(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Max and Min: the first operand that equals the result gets the gradient."""
    _, g = first(node, gradients)
    taken: ir.Value | None = None
    for value in node.inputs:
        hit = tape.op("Equal", value, node.outputs[0])
        chosen = hit if taken is None else tape.op("And", hit, tape.op("Not", taken))
        taken = hit if taken is None else tape.op("Or", taken, hit)
        if tape.wants(value):
            tape.send_broadcast(value, tape.gate(g, chosen), shape(node.outputs[0]))


def where(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Where: the gradient goes to the operand that was chosen."""
    condition, g = first(node, gradients)
    for value, open_ in zip(node.inputs[1:], (condition, None), strict=True):
        if tape.wants(value):
            chosen = tape.op("Not", condition) if open_ is None else open_
            tape.send_broadcast(value, tape.gate(g, chosen), shape(node.outputs[0]))
