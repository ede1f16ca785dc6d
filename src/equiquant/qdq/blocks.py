"""Store weights as int4 or int8 with a scale a block: DequantizeLinear with `block_size` in front of their readers.

Source: ONNX operator specification, DequantizeLinear-21.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.errors import ModelError
from equiquant.graph.edit import Names, add_initializer, remove_unread
from equiquant.graph.query import constant, nodes_by_name, opset
from equiquant.numerics.affine import INT_TYPES
from equiquant.numerics.layers.blocks import block_steps, round_blocks
from equiquant.target.selecting.blocks import BlockPlan, BlockWeight
from equiquant.target.table.targets import SIXTEEN_BIT_OPSET

__all__ = ["insert_blocks"]

Array = npt.NDArray[Any]


def insert_blocks(
    model: ir.Model, plan: BlockPlan, moments: Mapping[tuple[str, int], Array] | None = None
) -> list[dict[str, Any]]:
    """Store the planned weights as integers, in place; a weight read twice in the same way is stored once.

    Args:
        model: The float model the plan was made for.
        plan: Which weights, and how.
        moments: Second moments (K, K) of the inputs a weight meets, by its name and the axis that is summed over: those
            weights are rounded for their inputs, the others to nearest.

    Returns:
        The report's rows: name, type, the smallest and largest scale, how many there are, axis and block size.

    Raises:
        ModelError: The model's opset is older than 21.
    """
    if opset(model) < SIXTEEN_BIT_OPSET:
        raise ModelError(f"Weights in blocks need opset {SIXTEEN_BIT_OPSET}, but the model has {opset(model)}.")
    nodes = nodes_by_name(model)
    names, first = Names(model.graph), model.graph[0]
    stored: dict[tuple[ir.Value, str, int, int | None], ir.Value] = {}
    rows = []
    for planned in plan.weights:
        node = nodes[planned.node]
        value = node.inputs[planned.index]
        assert value is not None
        key = (value, planned.type, planned.axis, planned.block)
        if key not in stored:
            second = (moments or {}).get((value.name or "", planned.axis))
            restoring, row = _store(model.graph, names, value, planned, second)
            model.graph.insert_before(first, restoring)
            stored[key] = restoring.outputs[0]
            rows.append(row)
        node.replace_input_with(planned.index, stored[key])
    remove_unread(model.graph, [key[0] for key in stored])
    return rows


def _store(
    graph: ir.Graph, names: Names, value: ir.Value, planned: BlockWeight, second: Array | None
) -> tuple[ir.Node, dict[str, Any]]:
    """Add the integers and the scales of a weight; return the node that restores it, and its row of the report."""
    array = constant(value)
    assert array is not None
    integers, scales = _rounded(array, planned, second)
    base = value.name or planned.node
    kind = ir.DataType[planned.type.upper()].numpy()
    stored = add_initializer(graph, names.fresh(f"{base}_{planned.type}"), integers.astype(kind))
    scale = add_initializer(graph, names.fresh(f"{base}_scale"), scales)
    output = ir.Value(name=names.fresh(f"{base}_restored"), shape=value.shape, type=value.type)
    attributes = {"axis": planned.axis} | ({} if planned.block is None else {"block_size": planned.block})
    name = names.fresh(f"{base}_DequantizeLinear")
    node = ir.node("DequantizeLinear", [stored, scale], attributes, outputs=[output], name=name)
    row = {
        "name": f"{planned.node}[{planned.index}]",
        "scale": [float(scales.min()), float(scales.max())],
        "scales": scales.size,
        "zero_point": 0,
        "type": planned.type,
        "low": float(array.min()),
        "high": float(array.max()),
        "axis": planned.axis,
        "block_size": planned.block,
    }
    return node, row


def _rounded(array: Array, planned: BlockWeight, second: Array | None) -> tuple[Array, Array]:
    """Return the integers, shape of the weight, and the scales, shaped as DequantizeLinear takes them."""
    kind, axis = INT_TYPES[planned.type], planned.axis
    if planned.block is None:  # one scale along the axis
        moved = np.moveaxis(array, axis, 0)
        rows = moved.reshape(len(moved), -1).astype(np.float32)
        steps = block_steps(rows, rows.shape[1], kind, array.dtype)
        integers = round_blocks(rows, steps, rows.shape[1], kind).reshape(moved.shape)
        return np.ascontiguousarray(np.moveaxis(integers, 0, axis)), steps[:, 0].astype(array.dtype)
    moved = np.moveaxis(array, axis, -1)
    rows = moved.reshape(-1, moved.shape[-1]).astype(np.float32)
    steps = block_steps(rows, planned.block, kind, array.dtype)
    integers = round_blocks(rows, steps, planned.block, kind, second).reshape(moved.shape)
    scales = steps.astype(array.dtype).reshape(*moved.shape[:-1], -1)
    return np.ascontiguousarray(np.moveaxis(integers, -1, axis)), np.ascontiguousarray(np.moveaxis(scales, -1, axis))
