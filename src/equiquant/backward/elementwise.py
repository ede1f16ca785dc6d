"""Adjoints of functions of one element: g·f'(x), f' written with the output where that is cheaper.

Functions without a derivative of their own here are differentiated centrally, by running the op itself twice:
(f(x + ε) − f(x − ε))/2ε with ε = 2⁻⁷, where truncation and float32 rounding are both near 10⁻⁵ for functions that bend
on a scale of 1, as activations do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from equiquant.backward.tape import Tape, first, operand, shape
from equiquant.graph import query

__all__ = ["UNARY", "cast", "clip", "difference", "leaky_relu", "nothing", "power", "prelu", "unary"]

Gradients = Sequence[ir.Value | None]

STEP = 2.0**-7

# kind -> f'(x) from (tape, x, y)
UNARY: dict[str, Callable[[Tape, ir.Value, ir.Value], ir.Value]] = {
    "Abs": lambda t, x, y: t.op("Sign", x),
    "Neg": lambda t, x, y: t.number(-1.0),
    "Sqrt": lambda t, x, y: t.finite(t.op("Div", t.number(0.5), y)),
    "Exp": lambda t, x, y: y,
    "Log": lambda t, x, y: t.op("Reciprocal", x),
    "Reciprocal": lambda t, x, y: t.op("Neg", t.op("Mul", y, y)),
    "Sigmoid": lambda t, x, y: t.op("Mul", y, t.op("Sub", t.number(1.0), y)),
    "Tanh": lambda t, x, y: t.op("Sub", t.number(1.0), t.op("Mul", y, y)),
    "Softplus": lambda t, x, y: t.op("Sigmoid", x),
    "Sin": lambda t, x, y: t.op("Cos", x),
    "Cos": lambda t, x, y: t.op("Neg", t.op("Sin", x)),
    "Erf": lambda t, x, y: t.op("Mul", t.number(2 / math.sqrt(math.pi)), t.op("Exp", t.op("Neg", t.op("Mul", x, x)))),
    "Relu": lambda t, x, y: t.op("Cast", t.op("Greater", y, t.number(0.0)), to=int(ir.DataType.FLOAT)),
}


def unary(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Functions whose derivative `UNARY` knows."""
    x, g = first(node, gradients)
    tape.send(x, tape.op("Mul", g, UNARY[node.op_type](tape, x, node.outputs[0])))


def difference(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Any other elementwise function of its first input, by a central difference."""
    x, g = first(node, gradients)
    tape.stop(*(v for v in node.inputs[1:] if v is not x))
    above, below = (
        tape.again(node, [tape.op(sign, x, tape.number(STEP)), *node.inputs[1:]])[0] for sign in ("Add", "Sub")
    )
    slope = tape.op("Mul", tape.op("Sub", above, below), tape.number(0.5 / STEP))
    tape.send(x, tape.op("Mul", g, slope))


def leaky_relu(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """LeakyRelu: slope 1 above 0, alpha below."""
    x, g = first(node, gradients)
    alpha = float(query.attribute(node, "alpha", 0.01))
    decided = node.outputs[0] if alpha > 0 else x  # of the same sign; the input need not be kept in memory
    tape.send(x, _sloped(tape, decided, g, tape.number(alpha), tape.number(1 - alpha)))


def prelu(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """PRelu, with the slope a constant or computed."""
    (x, g), slope = first(node, gradients), operand(node, 1)
    tape.stop(slope)
    tape.send(x, _sloped(tape, x, g, slope, tape.op("Sub", tape.number(1.0), slope)))


def _sloped(tape: Tape, decided: ir.Value, g: ir.Value, slope: ir.Value, rest: ir.Value) -> ir.Value:
    positive = tape.op("Cast", tape.op("Greater", decided, tape.number(0.0)), to=int(ir.DataType.FLOAT))
    return tape.op("Mul", g, tape.op("Add", tape.op("Mul", positive, rest), slope))


def clip(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Clip: open strictly between its bounds."""
    x, g = first(node, gradients)
    y = node.outputs[0]
    bounds = [node.inputs[i] if i < len(node.inputs) else None for i in (1, 2)]
    tape.stop(*bounds)
    tests = [tape.op(kind, y, b) for kind, b in zip(("Greater", "Less"), bounds, strict=True) if b is not None]
    if tests:
        g = tape.gate(g, tests[0] if len(tests) == 1 else tape.op("And", *tests))
    tape.send(x, g)


def power(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Pow: p·x^(p − 1); an exponent that is computed counts as an output."""
    (x, g), exponent = first(node, gradients), operand(node, 1)
    tape.stop(exponent)
    p = tape.op("Cast", exponent, to=int(ir.DataType.FLOAT))
    slope = tape.finite(tape.op("Mul", p, tape.op("Pow", x, tape.op("Sub", p, tape.number(1.0)))))
    tape.send_broadcast(x, tape.op("Mul", g, slope), shape(node.outputs[0]))


def cast(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """A copy, as all floating-point types of the graph are float32: Cast, Identity, Dropout."""
    if gradients[0] is not None:
        tape.send(node.inputs[0], gradients[0])


def nothing(tape: Tape, node: ir.Node, gradients: Gradients) -> None:
    """Shapes and piecewise constant functions: the derivative is 0 almost everywhere."""
