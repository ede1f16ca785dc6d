"""Initializers that are listed as graph inputs: constants in fact, or defaults the caller may override?

Before IR version 4 every initializer had to be listed and could not be overridden: all are constants. From 4 on one
that is listed is a default value. Exporters of that time still listed every initializer out of habit, and a weight that
can be overridden cannot be folded or quantized. The rule: an initializer is a constant in fact if

- listing is the model's habit, that is, at least nine in ten of its initializers are listed; and
- every use of it is a parameter slot of its operator (weight, bias, statistics, axes, shape, bound, table…; either
  operand of arithmetic), not a slot for data or for the initial state of a recurrence; and it is not a graph output.

Otherwise it stays an input, and the report says so. All this is read from the model as it came: the version converter
raises the IR version and adds initializers of its own.
Source: ONNX `docs/IR.md`, section Graphs ("an initializer … default value"), and `docs/Versioning.md`; the same reading
as onnxruntime's.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import STAGE
from equiquant.decisions import Decision
from equiquant.graph.query import label

__all__ = ["initializer_inputs"]

RULE = "initializer_inputs"
DEFAULTS = 4  # the first IR version in which the caller can override an initializer
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


def initializer_inputs(model: ir.Model, *, habits: bool = True) -> list[Decision]:
    """Remove from the graph inputs the initializers that are constants in fact; each stays, under its name.

    Args:
        model: The model, its IR version and initializers those of the file.
        habits: False removes only what the IR version says is constant.
    """
    graph = model.graph
    listed = [v for v in graph.inputs if v.is_initializer()]
    if model.ir_version < DEFAULTS:
        done = f"no longer an input: a constant in IR version {model.ir_version}"
        decisions = [Decision(STAGE, RULE, v.name or "", True, done) for v in listed]
    elif habits:
        habit = len(listed) >= HABIT * len(graph.initializers)
        few = f"only {len(listed)} of {len(graph.initializers)} initializers are inputs"
        decisions = [_decision(v, _why_not(v) if habit else few) for v in listed]
    else:
        return []
    gone = {v for v, decision in zip(listed, decisions, strict=True) if decision.applied}
    kept = [v for v in graph.inputs if v not in gone]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    return decisions


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
