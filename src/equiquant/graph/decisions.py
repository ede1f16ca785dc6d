"""Where a network decides: its outputs, before the function that squashes them.

A Softmax or Sigmoid at the end hides noise where it is sure of itself, and the signal is all ones; what rounding did to
a decision is seen on its input.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["decision_values"]

SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
MOVING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"})


def decision_values(model: ir.Model) -> list[str]:
    """Return the name of each graph output, or of the input of the Softmax or Sigmoid it comes from; no name twice."""
    names: dict[str, None] = {}
    for output in model.graph.outputs:
        value: ir.Value | None = output
        while value is not None and (node := value.producer()) is not None and node.op_type in MOVING:
            value = node.inputs[0]
        node = None if value is None else value.producer()
        source = node.inputs[0] if node is not None and node.op_type in SQUASHING and node.domain == "" else None
        seen = output if source is None or source.producer() is None else source
        names[seen.name or ""] = None
    return list(names)
