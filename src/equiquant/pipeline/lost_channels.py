"""Say so where channels of an output are lost: their weights all round to 0 beside larger ones that share the scale.

A layer that predicts a price and a rate has weights as far apart as their units. Noise hides it: where the price is one
output with the rate, the rate is nothing beside it. Channels that are added up later are no loss, for there the small
ones are small.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from equiquant.equalization.saturation import SINGLE_VALUED
from equiquant.graph.decisions import COPYING, MOVING
from equiquant.graph.query import LINEAR_OPS, becomes_output, constant, label
from equiquant.numerics.affine import fake_quantize
from equiquant.pipeline.state import RunState
from equiquant.target import QuantPlan
from equiquant.target.ops import row_of, weight_axis

__all__ = ["warn_of_lost_channels"]

MOST_NAMED = 3  # layers
LEAST = float(np.finfo(np.float32).eps)  # of the largest weight: weight decay leaves less of a channel that is dead
POOLS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Resize"}
APART = MOVING | COPYING | SINGLE_VALUED | POOLS


def warn_of_lost_channels(state: RunState, model: ir.Model, refined: ir.Model, plan: QuantPlan) -> None:
    """Warn of the layers some of whose weights' output channels all round to 0, if a graph output tells these apart.

    Args:
        state: The run.
        model: The float model with the weights as they were before they were rounded.
        refined: The model that the plan is carried out on.
        plan: How it will be quantized.
    """
    stored = {node.name: node for node in refined.graph}
    found = [
        f"{lost} of {channels} of '{label(node)}'"
        for node in model.graph
        if node.name in plan.nodes and node.name in stored
        for lost, channels in _lost(node, stored[node.name], plan)
    ]
    if not found:
        return
    named = ", ".join(found[:MOST_NAMED])
    more = f" and of {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    remedies = [
        "nodes_to_exclude, which leaves the layer in float",
        "outputs of a like scale, brought to their units later",
    ]
    if not (state.recipe.per_channel or state.recipe.npu):
        remedies.insert(0, "per_channel=True, one scale a weight's channel")
    state.warn(
        f"Output channels are lost, for all their weights round to 0 beside larger ones: {named}{more}."
        f" Worth trying: {'; '.join(remedies)}."
    )


def _lost(node: ir.Node, stored: ir.Node, plan: QuantPlan) -> Iterator[tuple[int, int]]:
    """Yield how many channels of a layer are lost, of how many, if any are."""
    row = row_of(node)
    if row is None or row.weight is None or node.op_type not in LINEAR_OPS:
        return
    if not becomes_output(node.outputs[0], _apart):
        return
    weight, kept = (constant(n.inputs[row.weight]) for n in (node, stored))
    params = plan.constants.get((node.name or "", row.weight))
    axis = None if weight is None else weight_axis(node, weight.ndim)
    if weight is None or kept is None or params is None or axis is None:
        return
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    lost = (largest > LEAST * largest.max(initial=0.0)) & ~fake_quantize(kept, params).any(axis=others)
    if lost.any():
        yield int(np.count_nonzero(lost)), lost.size


def _apart(node: ir.Node, value: ir.Value) -> bool:
    """True if a node computes each channel of a value by itself."""
    return (
        node.domain == ""
        and node.op_type in APART
        and (
            node.op_type in COPYING or all(v is value or constant(v) is not None for v in node.inputs if v is not None)
        )
    )
