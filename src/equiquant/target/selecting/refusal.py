"""What keeps a node of a quantizable op type float, whatever the options: its types, its constants, its attributes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.graph.query import attribute, constant, filled_with, infinite_constant, static_shape
from equiquant.target.table.ops import OpRow, activation_inputs, data_outputs, row_of

__all__ = ["data_type", "overridable", "refusal"]

INFINITE = -1e3  # stands for −∞, as do lower ones: hardly a value is so low, and 8 bits with it have steps of 4
MOST_UNEVEN = 8  # largest over smallest divisor


def refusal(node: ir.Node) -> str | None:
    """Return why a node of a quantizable op type stays float, None if nothing stands in the way."""
    row = row_of(node)
    if row is None:
        return f"'{node.domain + '.' if node.domain else ''}{node.op_type}' is not a quantizable op"
    if (default := overridable(node)) is not None:
        return f"the caller can override its '{default.name}'"
    if (infinite := infinite_constant(node)) is not None:
        return f"its constant '{infinite.name}' is not finite"
    if _stands_for_infinity(node):
        return "what is padded before the MaxPool stands for minus infinity, which no range of integers has room for"
    if (empty := _empty(node, row)) is not None:
        return f"'{empty.name}' has no elements"
    if node.op_type == "AveragePool" and any(d != 1 for d in attribute(node, "dilations", ())):
        return "onnxruntime has no integer AveragePool with dilations"
    if node.op_type == "Div" and _uneven(node.inputs[1]):
        return "its divisors are too uneven: rounded with one scale, the smallest would be far off"
    inputs = [value for _, value in activation_inputs(node, row)]
    for value in (*inputs, *data_outputs(node)):
        dtype = data_type(value)
        if dtype is None:
            return f"the type of '{value.name}' is unknown"
        if not dtype.is_floating_point():
            return "computes shapes or indices, not activations"
        if dtype != ir.DataType.FLOAT:
            kind = dtype.name.lower()
            return f"'{value.name}' is {kind}; only float32 tensors are quantized (export the model in float32)"
    if all(constant(value) is not None for value in inputs):
        return "all its inputs are constant"
    return None


def overridable(node: ir.Node) -> ir.Value | None:
    """Return an initializer the node reads that the caller may give another value, None if there is none."""
    return next((v for v in node.inputs if v is not None and v.is_initializer() and v.is_graph_input()), None)


def _stands_for_infinity(node: ir.Node) -> bool:
    """True for a Pad, with a number far below what a tensor holds, that only MaxPools read, and for these."""
    value = node.inputs[0]
    pad = (
        node if node.op_type == "Pad" else value.producer() if node.op_type == "MaxPool" and value is not None else None
    )
    if pad is None or pad.op_type != "Pad" or pad.outputs[0].is_graph_output() or (filled_with(pad) or 0) > INFINITE:
        return False
    return all(reader.op_type == "MaxPool" for reader in pad.outputs[0].consumers())


def _empty(node: ir.Node, row: OpRow) -> ir.Value | None:
    """Return the weight or a result without elements, as of channels that were all pruned; None if there is none."""
    weight = node.inputs[row.weight] if row.weight is not None else None
    found = (value for value in (weight, *data_outputs(node)) if value is not None)
    return next((value for value in found if 0 in (static_shape(value) or ())), None)


def _uneven(divisor: ir.Value | None) -> bool:
    """True of constant divisors whose smallest would lose more than 3% to rounding with the scale of the largest."""
    array = None if divisor is None else constant(divisor)
    if array is None or not array.size:
        return False
    size = np.abs(array.astype(np.float64))
    return bool(size.min() * MOST_UNEVEN < size.max())


def data_type(value: ir.Value) -> ir.DataType | None:
    """Return the element type; where inference failed, that of the input an op of the table took it from."""
    seeking: ir.Value | None = value
    while seeking is not None and seeking.dtype is None:
        producer = seeking.producer()
        seeking = producer.inputs[0] if producer is not None and row_of(producer) is not None else None
    return None if seeking is None else seeking.dtype
