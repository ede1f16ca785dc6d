"""Say so where channels of an output are lost: their weights all round to 0 beside larger ones that share the scale.

A layer that predicts a price and a rate has weights as far apart as their units. Noise hides it: where the price is one
output with the rate, the rate is nothing beside it. Channels that are added up later are no loss, for there the small
ones are small; nor are those that are a constant by far, a bias that no rounding takes away.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from equiquant.equalization.saturation import SINGLE_VALUED
from equiquant.graph.decisions import COPYING, MOVING
from equiquant.graph.query import LINEAR_OPS, becomes_output, constant, label, name_of
from equiquant.numerics.affine import fake_quantize
from equiquant.pipeline.state import RunState
from equiquant.target import QuantPlan
from equiquant.target.table.ops import row_of, weight_axis

__all__ = ["warn_of_lost_channels"]

MOST_NAMED = 3  # layers
LEAST = float(np.finfo(np.float32).eps)  # of the largest weight: weight decay leaves less of a channel that is dead
CONSTANT = 100.0  # times as large as all that the weights can add, a bias leaves 40 dB of a channel
ENDS = np.array([-np.inf, np.inf], np.float32)
POOLS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Resize"}
APART = MOVING | COPYING | SINGLE_VALUED | POOLS | {"PRelu"}


def warn_of_lost_channels(state: RunState, model: ir.Model, plan: QuantPlan) -> None:
    """Warn of the layers some of whose weights' output channels all round to 0, if a graph output tells these apart.

    Args:
        state: The run.
        model: The float model with the weights as they were before they were rounded: of a channel that rounds to 0,
            adaptive rounding leaves a weight or two.
        plan: How it will be quantized.
    """
    found = [
        f"{lost} of {channels} of '{label(node)}'"
        for node in model.graph
        if node.name in plan.nodes
        for lost, channels in _lost(node, plan)
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


def _lost(node: ir.Node, plan: QuantPlan) -> Iterator[tuple[int, int]]:
    """Yield how many channels of a layer are lost, of how many, if any are."""
    row = row_of(node)
    if row is None or row.weight is None or node.op_type not in LINEAR_OPS:
        return
    if not becomes_output(node.outputs[0], _apart):
        return
    weight = constant(node.inputs[row.weight])
    params = plan.constants.get((node.name or "", row.weight))
    axis = None if weight is None else weight_axis(node, weight.ndim)
    if weight is None or params is None or axis is None:
        return
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    lost = (largest > LEAST * largest.max(initial=0.0)) & ~fake_quantize(weight, params).any(axis=others)
    bias = None if row.bias is None or len(node.inputs) <= row.bias else constant(node.inputs[row.bias])
    read = plan.activations.get(name_of(node.inputs[0]))
    if bias is not None and bias.size in (1, lost.size) and read is not None:
        added = np.abs(weight).sum(axis=others) * np.abs(fake_quantize(ENDS, read)).max()
        lost &= np.abs(bias.reshape(-1)) < CONSTANT * added
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
