"""The Concats and Adds that join the results of a network: nothing behind them computes with what they make."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from equiquant.graph.query import constant, origin
from equiquant.hardware import is_hardware_factor
from equiquant.target.selecting.survey import Survey
from equiquant.target.table.ops import activation_inputs, data_outputs, moves_data, row_of

__all__ = ["FinalJoin", "final_joins"]

JOINS = frozenset({"Add", "Concat"})


@dataclass(frozen=True, eq=False)
class FinalJoin:
    """A quantized Concat or Add whose result is at most moved on to readers in float.

    Attributes:
        node: The Concat or Add.
        inputs: Names of what it joins, constants left out.
        position: The largest of the positions that the target demands of an input at least, None for none: they all
            have one scale, so none is coarser than 2**−position.
    """

    node: ir.Node
    inputs: tuple[str, ...]
    position: int | None


def final_joins(model: ir.Model, survey: Survey) -> list[FinalJoin]:
    """Return the Concats and Adds at the ends of a network, in graph order.

    Args:
        model: The model that was surveyed; only read.
        survey: What will be quantized.
    """
    quantized = frozenset[str | None](survey.nodes)
    moved_out: dict[ir.Node, bool] = {}
    found: list[FinalJoin] = []
    for node in reversed(list(model.graph)):
        if node.name not in quantized or not (node.op_type in JOINS or moves_data(node)):
            continue
        readers = [use.node for value in data_outputs(node) for use in value.uses()]
        moved_out[node] = all(moved_out.get(r, r.name not in quantized) for r in readers)
        row = row_of(node)
        if node.op_type not in JOINS or not moved_out[node] or row is None:
            continue
        inputs = [value for _, value in activation_inputs(node, row) if constant(value) is None]
        aligned = node.op_type in survey.target.aligned
        least = [p for value in inputs if aligned and (p := _least_position(value, quantized, survey)) is not None]
        found.append(FinalJoin(node, tuple(value.name or "" for value in inputs), max(least, default=None)))
    return found[::-1]


def _least_position(value: ir.Value, quantized: Collection[str | None], survey: Survey) -> int | None:
    """Return the least position the target demands of what a node computed, whatever its operands; moves keep it."""
    node = origin(value, lambda n: n.name in quantized and moves_data(n))
    if node is not None and survey.target.factors and is_hardware_factor(node) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None:
        return None
    own = (s.low for s in survey.target.shifts if node.op_type in s.ops and s.terms == (("output", 1),))
    return max((low for low in own if low is not None), default=None)
