"""A PReLU written out in Relu, Abs, Neg, Min, Max, products and sums, as one operator.

Such an expression of a tensor x is linear on either side of 0: a·x for x ≤ 0 and b·x for x ≥ 0, and so is what each of
these operators makes of it. With b = 1 the whole is a PRelu of slope a: a LeakyRelu if a is one number, a Relu if it is
0. Written out, every step would be rounded by itself. Source: ONNX operator specification.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, add_initializer
from equiquant.graph.query import attribute, clip_ends, constant, is_float, static_shape

__all__ = ["ACTIVATIONS", "FoldPRelu", "WrittenOut"]

Array = npt.NDArray[Any]
Slopes = tuple[Array, Array]  # (below 0, above), float64, as numpy broadcasts the constants in them

ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu")
"""Op types that an expression may become."""

JOINS = frozenset({"Add", "Sub", "Sum", "Min", "Max"})
SIGNS = frozenset({"Relu", "Abs", "Neg", "LeakyRelu", "Clip"})
DEEPEST = 6  # operators between the expression's result and its tensor


@dataclass(frozen=True, eq=False)
class WrittenOut:
    """An expression that is linear on either side of 0, with slope 1 above.

    Attributes:
        node: The operator that computes it.
        source: What it is an expression of.
        slope: The slope below 0.
    """

    node: ir.Node
    source: ir.Value
    slope: Array


class FoldPRelu(Rule[WrittenOut, Array]):
    """A sum, difference, minimum or maximum of expressions of one tensor.

    Args:
        kinds: Op types, those of `ACTIVATIONS` among which an expression may become.
    """

    name = "fold_prelu"
    op_types = JOINS

    def __init__(self, kinds: Collection[str] = ACTIVATIONS) -> None:
        self._kinds = kinds

    def pattern(self, node: ir.Node) -> WrittenOut | None:
        """Match the two operands if they are expressions of one tensor that nothing else reads; the farthest one."""
        out = node.outputs[0]
        operands = [v for v in node.inputs if v is not None and constant(v) is None]
        if len(operands) != 2 or len(node.inputs) != 2 or out.dtype is None or not is_float(out):
            return None
        for source in reversed(list(_behind(node))):
            parts: set[ir.Node] = set()
            slopes = _slopes(out, source, parts)
            if slopes is None or not (slopes[1] == 1).all() or (slopes[0] == 1).all():
                continue
            if all(part is node or _read_by(part.outputs[0], parts) for part in parts):
                return WrittenOut(node, source, slopes[0])
        return None

    def check(self, match: WrittenOut) -> Array:
        """Return the slope, one number if it is one; refuse if the operator is not wanted, or would widen it."""
        slope: Array = match.slope
        _check_width(slope, static_shape(match.source))
        if slope.size and (slope == slope.reshape(-1)[0]).all():
            slope = slope.reshape(-1)[:1].reshape(())
        if _kind(slope) not in self._kinds:
            refuse(f"a {_kind(slope)} would not run on integers there, and what it is written in does")
        return slope

    def rewrite(self, match: WrittenOut, plan: Array, names: Names) -> str:
        """Turn the last operator into what the expression is; what nothing reads any more is removed later."""
        node, source = match.node, match.source
        graph, kind = node.graph, node.outputs[0].dtype
        assert isinstance(graph, ir.Graph)
        assert kind is not None, "the pattern asks for a float"
        node.attributes.clear()
        node.resize_inputs(1)
        node.replace_input_with(0, source)
        node.op_type = _kind(plan)
        if node.op_type == "LeakyRelu":
            node.attributes["alpha"] = ir.AttrFloat32("alpha", float(plan))
        if node.op_type == "PRelu":
            slope = add_initializer(graph, names.fresh(f"{node.name}_slope"), plan.astype(kind.numpy()))
            node.resize_inputs(2)
            node.replace_input_with(1, slope)
        return f"{node.op_type} of '{source.name}', which was written out"


def _kind(slope: Array) -> str:
    return "PRelu" if slope.ndim else "LeakyRelu" if slope else "Relu"


def _check_width(slope: Array, shape: tuple[int | None, ...] | None) -> None:
    """Refuse slopes, as the constants give them, that would make a tensor of this shape larger."""
    if shape is None:
        if slope.size > 1 or slope.ndim > 1:
            refuse("the rank of its tensor is unknown")
        return
    fits = all(size in (1, given) for size, given in zip(slope.shape[::-1], shape[::-1], strict=False))
    if slope.ndim > len(shape) or not fits:
        refuse(f"its slopes of shape {slope.shape} would widen the tensor")


def _behind(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the tensors that operators of these kinds compute the node's operands from, the nearest first."""
    seen: dict[ir.Value, None] = {}
    level = [v for v in node.inputs if v is not None and constant(v) is None]
    for _ in range(DEEPEST):
        seen |= dict.fromkeys(level)
        makers = [maker for v in level if (maker := v.producer()) is not None and _known(maker)]
        level = [v for maker in makers for v in maker.inputs if v is not None and constant(v) is None]
    yield from seen


def _known(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in JOINS | SIGNS | {"Mul", "Div"}


def _slopes(value: ir.Value, source: ir.Value, parts: set[ir.Node], deep: int = 0) -> Slopes | None:
    """Return the slopes of an expression of `source`, None if it is not one; add the operators in it to `parts`.

    Farther than `DEEPEST` operators from the result nothing is looked at: a residual network is one long sum.
    """
    if value is source:
        return np.ones(()), np.ones(())
    node = value.producer()
    if node is None or not _known(node) or deep == DEEPEST:
        return None
    parts.add(node)
    numbers = [None if v is None else constant(v) for v in node.inputs]
    found = [
        None if v is None or number is not None else _slopes(v, source, parts, deep + 1)
        for v, number in zip(node.inputs, numbers, strict=True)
    ]
    match node.op_type:
        case "Add" | "Sub" | "Sum" | "Max" | "Min" if len(found) == 2 and None not in found:
            return _joined(node.op_type, *(slopes for slopes in found if slopes is not None))
        case "Min" | "Max" if len(found) == 2:
            index = 0 if found[1] is None else 1
            number, slopes = numbers[1 - index], found[index]
            if slopes is None or number is None or number.size != 1 or number.any():
                return None
            return _joined(node.op_type, slopes, (np.zeros(()), np.zeros(())))
        case "Mul" | "Div":
            return _times(node, found, numbers)
    return None if not found or found[0] is None else _signed(node, *found[0])


def _joined(kind: str, left: Slopes, right: Slopes) -> Slopes:
    """Return the slopes of a sum, difference, minimum or maximum; below 0 the larger slope is the smaller number."""
    (a, b), (c, d) = left, right
    match kind:
        case "Sub":
            return a - c, b - d
        case "Max":
            return np.minimum(a, c), np.maximum(b, d)
        case "Min":
            return np.maximum(a, c), np.minimum(b, d)
    return a + c, b + d


def _times(node: ir.Node, found: list[Slopes | None], numbers: list[Array | None]) -> Slopes | None:
    """Return the slopes of an expression times, or divided by, constants."""
    index = 0 if found[0] is not None else 1
    slopes, number = found[index], numbers[1 - index]
    if slopes is None or number is None or (node.op_type == "Div" and (index == 1 or not number.all())):
        return None
    factor = number.astype(np.float64)
    factor = 1 / factor if node.op_type == "Div" else factor
    return (slopes[0] * factor, slopes[1] * factor) if np.isfinite(factor).all() else None


def _signed(node: ir.Node, below: Array, above: Array) -> Slopes | None:
    """Return the slopes of what an operator makes of positive and negative numbers."""
    match node.op_type:
        case "Neg":
            return -below, -above
        case "Abs":
            return -np.abs(below), np.abs(above)
        case "Clip" if clip_ends(node) == (-np.inf, 0.0):
            return np.maximum(below, 0.0), np.minimum(above, 0.0)
        case "Relu":
            leak = 0.0
        case "LeakyRelu":
            leak = float(attribute(node, "alpha", 0.01))
        case _:
            return None
    return np.where(below > 0, leak * below, below), np.where(above < 0, leak * above, above)


def _read_by(value: ir.Value, nodes: set[ir.Node]) -> bool:
    """True if nothing but these nodes reads a value."""
    return not value.is_graph_output() and all(use.node in nodes for use in value.uses())
