"""Where a network decides: its outputs, apart again where they were joined, before the function that squashes them.

A Softmax or Sigmoid at the end hides noise where it is sure of itself, and the signal is all ones; what rounding did to
a decision is seen on its input. A detector that joins boxes in pixels and scores in one output has decided twice, and
the noise of a score is nothing beside the boxes: each is held to its own size. What it joins of one kind, the levels of
a pyramid, is one decision in one unit.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from equiquant.graph.query import constant, origin

__all__ = ["decision_values"]

SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
MOVING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"})


def decision_values(model: ir.Model) -> list[str]:
    """Return the names of what each graph output was decided by, no name twice.

    That is the output itself, or each part of it where a Concat joined what different operators computed; and of a
    Softmax or Sigmoid its input.
    """
    return list(dict.fromkeys(value.name or "" for output in model.graph.outputs for value in _decided(output)))


def _decided(value: ir.Value) -> Iterator[ir.Value]:
    node = origin(value, _moves)
    if node is not None and node.op_type == "Concat" and node.domain == "":
        parts = [part for part in node.inputs if part is not None and constant(part) is None]
        kinds = {None if (maker := origin(part, _moves)) is None else maker.op_type for part in parts}
        if len(kinds) > 1 or kinds == {"Concat"}:
            for part in parts:
                yield from _decided(part)
            return
    source = node.inputs[0] if node is not None and node.op_type in SQUASHING and node.domain == "" else None
    yield value if source is None or source.producer() is None else source


def _moves(node: ir.Node) -> bool:
    return node.op_type in MOVING
