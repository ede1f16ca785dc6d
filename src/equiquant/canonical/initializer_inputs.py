"""Initializers that are listed as graph inputs: constants in fact, or defaults the caller may override?

From IR version 4 on, an initializer listed as input is a default value. Exporters of that time listed every initializer
out of habit (before version 4 they had to), and a weight that can be overridden cannot be folded or quantized.
The rule: an initializer is a constant in fact if

- listing is the model's habit, that is, at least nine in ten of its initializers are listed; and
- every use of it is a parameter slot of its operator (weight, bias, statistics, axes, shape, bound, table…; either
  operand of arithmetic), not a slot for data or for the initial state of a recurrence; and it is not a graph output.

Otherwise it stays an input, and the report says so.
Source: ONNX `docs/IR.md`, section Graphs ("an initializer … default value").
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import STAGE
from equiquant.decisions import Decision
from equiquant.graph.query import label

__all__ = ["initializer_inputs"]

RULE = "initializer_inputs"
HABIT = 0.9  # a share of listed initializers that nobody produces on purpose

ANY = frozenset(range(16))
OPERANDS = ANY - {0}
PARAMETER_SLOTS: dict[str, frozenset[int]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Greater", "Less", "Gather", "ConstantOfShape"), ANY),
    **dict.fromkeys(("Max", "Min", "Where", "Concat", "Range", "GridSample"), ANY),
    **dict.fromkeys(
        ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization"), OPERANDS
    ),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "PRelu", "Clip", "Pad", "Slice", "Split"), OPERANDS),
    **dict.fromkeys(("Reshape", "Resize", "Upsample", "Squeeze", "Unsqueeze", "Expand", "Tile", "TopK"), OPERANDS),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "OneHot", "CumSum", "Dropout"), OPERANDS),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceProd", "NonMaxSuppression"), OPERANDS),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), frozenset({1, 2, 3})),
    **dict.fromkeys(
        ("Identity", "Transpose", "Cast"), frozenset({0})
    ),  # an exporter's way to share or lay out a weight
}


def initializer_inputs(model: ir.Model) -> list[Decision]:
    """Remove from the graph inputs the initializers that are constants in fact; each stays, under its name."""
    graph = model.graph
    listed = [v for v in graph.inputs if v.is_initializer()]
    if not listed:
        return []
    habit = len(listed) >= HABIT * len(graph.initializers)
    reasons = {
        v: _why_not(v) if habit else f"only {len(listed)} of {len(graph.initializers)} initializers are inputs"
        for v in listed
    }
    kept = [v for v in graph.inputs if reasons.get(v, "kept") is not None]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    return [_decision(value, reason) for value, reason in reasons.items()]


def _why_not(value: ir.Value) -> str | None:
    """Return what speaks against `value` being a constant, None if nothing does."""
    if value.is_graph_output():
        return "it is a graph output too"
    for node, index in value.uses():
        if node.domain != "" or index not in PARAMETER_SLOTS.get(node.op_type, ()):
            return f"'{label(node)}' ({node.op_type}) reads it as input {index}, which is no parameter"
    return None


def _decision(value: ir.Value, reason: str | None) -> Decision:
    name = value.name or ""
    if reason is None:
        return Decision(STAGE, RULE, name, True, "no longer a graph input: a parameter, listed by the exporter's habit")
    advice = "may be overridden by the caller; remove it from the graph inputs if it is a constant"
    return Decision(STAGE, RULE, name, False, f"{reason}, so it {advice}")
