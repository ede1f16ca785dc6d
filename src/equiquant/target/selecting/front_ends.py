"""Front ends stay float: the layers before a network that compute a spectrum, its power and the Log of that.

A Log or a root makes small values large, and with them what rounding did to them: one 8-bit step of a waveform, of the
real or the imaginary part of its spectrum, or of the power is more than all that a quiet passage holds.

Only what reads a graph input through linear layers, squares and sums alone is a front end. So no network before a
distance, √(x² + y²), is one, nor is a layer whose result is normalized: the Div reads it as well. Where squares are
averaged, so are their rounding errors.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from equiquant.graph.query import LINEAR_OPS, exponent, is_public, is_square, operands, origin
from equiquant.target.selecting.moved import moved, readers
from equiquant.target.table.ops import has_weight, moves_data

__all__ = ["FRONT_END", "front_ends"]

FRONT_END = (
    "front end: a square in it goes through a Log or a root, which makes small values, and their rounding, large"
)

SQUARES = frozenset({"ReduceL2", "ReduceSumSquare"})
"""Op types that add up squares."""

SUMS = frozenset({"Add", "Sub", "Sum", "Concat"})
"""Op types that add, or put side by side, several operands."""

SCALES = LINEAR_OPS | {"Neg", "Mul", "Div", "ReduceSum"}
"""Op types that are linear in one operand where the others are constants."""

OF_POWER = frozenset({"Max", "Min", "Clip", "Sqrt", "Pow", "Log"})
"""Op types that a front end computes with a power, cut off by constants."""

FLOORS = frozenset({"Add", "Max", "Clip"})
"""Op types that keep a divisor from being 0."""


def front_ends(nodes: Sequence[ir.Node], asked: Collection[str]) -> set[ir.Node]:
    """Return the nodes of front ends before other layers.

    Args:
        nodes: Those of a graph, in topological order; what computes indices left out.
        asked: Names of nodes that the options ask to quantize: no front end has one of them.
    """
    makers = dict[ir.Node, frozenset[ir.Node | None]]()
    powers, ends = set[ir.Node](), set[ir.Node]()
    for node in nodes:
        if moves_data(node) or node.name in asked:
            continue
        made = frozenset(origin(value, moves_data) for value in operands(node))
        power = not made.isdisjoint(powers)
        if not made or not all(maker is None or maker in makers for maker in made) or not _may_join(node, power):
            continue
        makers[node] = made
        if power or _squares(node):
            powers.add(node)
            if _amplifies(node):
                ends.add(node)
    found = set(makers)
    while drop := [n for n in found if not (n in ends or _is_inside(n, found)) or makers[n] - found - {None}]:
        found.difference_update(drop)
    return found if _leads_to_layer(found) else set()


def _may_join(node: ir.Node, power: bool) -> bool:
    """True if a node computes what a front end does, all its operands given by one, `power` if behind a square."""
    if node.domain != "":
        return False
    if node.op_type in SUMS or _squares(node):
        return True
    read = operands(node)
    if len(read) != 1 or (node.op_type in ("Div", "Pow") and read[0] is not node.inputs[0]):
        return False
    return node.op_type in SCALES or (power and node.op_type in OF_POWER)


def _squares(node: ir.Node) -> bool:
    return is_square(node) or (node.op_type in SQUARES and node.domain == "")


def _amplifies(node: ir.Node) -> bool:
    """True for a Log or a root, unless something is divided by it: a norm only scales."""
    power = exponent(node)
    root = node.op_type in ("Sqrt", "ReduceL2") or (power is not None and 0 < power < 1)
    return node.op_type == "Log" or (root and not _divides(node.outputs[0]))


def _divides(value: ir.Value) -> bool:
    """True if something is divided by a value, or by what a small constant made of it."""
    for copy in moved(value):
        for use in copy.uses():
            if use.node.op_type == "Reciprocal" or (use.node.op_type == "Div" and use.idx == 1):
                return True
            floored = use.node.op_type in FLOORS and len(operands(use.node)) == 1
            if floored and _divides(use.node.outputs[0]):
                return True
    return False


def _is_inside(node: ir.Node, found: set[ir.Node]) -> bool:
    """True if only nodes of the front end read a result."""
    result = node.outputs[0]
    reading = set(readers(result))
    return bool(reading) and reading <= found and not any(map(is_public, moved(result)))


def _leads_to_layer(found: Collection[ir.Node]) -> bool:
    """True if a layer that is no part of the front end computes with its results."""
    behind = [successor for node in found for successor in node.successors()]
    seen = set(behind)
    for node in behind:  # which grows
        if has_weight(node) and node not in found:
            return True
        new = [successor for successor in node.successors() if successor not in seen]
        behind += new
        seen.update(new)
    return False
