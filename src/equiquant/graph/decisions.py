"""Where a network decides: its outputs, apart again where they were joined, before the function that squashes them.

A Softmax or Sigmoid at the end hides noise where it is sure of itself, and the signal is all ones; what rounding did to
a decision is seen on its input. A detector that joins boxes in pixels and scores in one output has decided twice, and
the noise of a score is nothing beside the boxes: each is held to its own size. What it joins of one kind, the levels of
a pyramid, is one decision in one unit.

What an ArgMax or a non-maximum suppression makes of the numbers is a choice: integers, words, or values in a number
that depends on the numbers themselves, so that two runs cannot be compared one by one. There the network decides with
the floats that the choice is made by.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from equiquant.graph.query import constant, is_float, origin, reads, values_by_name
from equiquant.graph.varying import SIZES, varying

__all__ = ["COPYING", "MOVING", "computed_values", "decided_by", "decision_values", "rounded_values"]

SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"})
MOVING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"})
"""Op types that only give a tensor another shape or order."""

COPYING = frozenset({"Concat", "Expand", "Gather", "Slice", "Split", "Tile"})
"""Those whose results hold some values of what they read, or of several."""


def decision_values(model: ir.Model) -> list[str]:
    """Return the names of what the graph outputs were decided by, no name twice; see `decided_by`."""
    return list(dict.fromkeys(name for names in decided_by(model).values() for name in names))


def computed_values(model: ir.Model) -> list[str]:
    """Return the names of `decision_values` but for those that are copies of inputs; all of them if none is computed.

    No rounding changes a copy, such as the past keys that a decoder hands on: it says nothing of how good a model is.
    """
    values = values_by_name(model)
    names = decision_values(model)
    return [name for name in names if not _copied(values[name])] or names


def rounded_values(model: ir.Model) -> list[str]:
    """Return the names of the values of a quantized model that its quantized weights or tensors have a part in."""
    found: dict[ir.Value, None] = {}
    for node in model.graph:
        if node.op_type == "DequantizeLinear" or any(value in found for value in reads(node)):
            found |= dict.fromkeys(node.outputs)
    return [value.name or "" for value in found]


def decided_by(model: ir.Model) -> dict[str, list[str]]:
    """Return, for each graph output, the names of what it was decided by; none where no number did.

    That is the output itself, or each part of it where a Concat joined what different operators computed; of a Softmax
    or Sigmoid, hard ones too, its input; of a choice the floats it is made by, which may be graph inputs.
    """
    unlike = varying(model)
    ends = {o: (end.name or "" for value in _floats(o, unlike) for end in _decided(value)) for o in model.graph.outputs}
    return {output.name or "": list(dict.fromkeys(names)) for output, names in ends.items()}


def _floats(output: ir.Value, unlike: set[ir.Value]) -> Iterator[ir.Value]:
    """Yield the output if it is a float tensor that is not `unlike`, else the nearest such values before it."""
    seen: set[ir.Value] = set()
    pending = [output]
    while pending:
        value = pending.pop()
        if value in seen or constant(value) is not None:
            continue
        seen.add(value)
        node = value.producer()
        if value not in unlike and is_float(value):
            yield value
        elif node is not None and node.op_type not in SIZES:
            pending.extend(reversed(list(reads(node))))


def _decided(value: ir.Value) -> Iterator[ir.Value]:
    node = origin(value, _moves)
    if node is not None and node.op_type == "Concat" and node.domain == "":
        parts = [part for part in node.inputs if part is not None and constant(part) is None]
        kinds = {None if (maker := origin(part, _moves)) is None else maker.op_type for part in parts}
        if len(kinds) > 1 or kinds == {"Concat"}:
            for part in parts:
                yield from _decided(part)
            return
    node = _unscaled(node)
    source = node.inputs[0] if node is not None and node.op_type in SQUASHING and node.domain == "" else None
    yield value if source is None or source.producer() is None else source


def _unscaled(node: ir.Node | None) -> ir.Node | None:
    """Return the HardSigmoid that a node multiplies by one number, as the NPU does; else the node itself."""
    if node is None or node.op_type != "Mul" or node.domain != "":
        return node
    factors = [factor for v in node.inputs if (factor := constant(v)) is not None and factor.size == 1]
    makers = [maker for v in node.inputs if v is not None and (maker := v.producer()) is not None]
    hard = next((maker for maker in makers if maker.op_type == "HardSigmoid" and maker.domain == ""), None)
    return hard if hard is not None and factors else node


def _copied(value: ir.Value) -> bool:
    """True if every number of a value is one that was fed."""
    pending, seen = [value], set[ir.Node]()
    while pending:
        node = pending.pop().producer()
        if node is None or node in seen:
            continue
        if not _moves(node) and (node.op_type not in COPYING or node.domain != ""):
            return False
        seen.add(node)
        pending += [v for v in node.inputs if v is not None]
    return True


def _moves(node: ir.Node) -> bool:
    return node.op_type in MOVING
