"""The op table: what quantization needs to know of each operator, one row an op.

An op either computes (its output has a range of its own), moves data (every output value is one of the input's values,
or 0, so input and output share one scale and zero point) or is not in the table and stays float.
Source: ONNX operator specification, version 21.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from equiquant.graph.query import attribute, constant, pads_own_values, static_shape

__all__ = [
    "OPS",
    "OpRow",
    "activation_inputs",
    "data_outputs",
    "has_weight",
    "moves_data",
    "row_of",
    "weight_axis",
    "window_size",
]


@dataclass(frozen=True)
class OpRow:
    """One operator.

    Attributes:
        inputs: Indices of the inputs that carry activations; None for all of them.
        weight: Index of the weight; an activation input when it is not constant.
        bias: Index of the bias.
        moves: Every output value is a value of input 0, or 0.
        hosts: An activation function right behind it can be computed before the result is rounded.
        cpu: onnxruntime's CPU provider runs it on 8-bit integers, or its weight is worth storing in 8 bits.
        npu: The documented CNN NPU runs it.
        lazy: On the CPU, only worth quantizing when its result is read as integers.
    """

    inputs: tuple[int, ...] | None = (0,)
    weight: int | None = None
    bias: int | None = None
    moves: bool = False
    hosts: bool = False
    cpu: bool = False
    npu: bool = True
    lazy: bool = False


_WEIGHTED = OpRow(weight=1, bias=2, hosts=True, cpu=True)
_BINARY = OpRow(inputs=None, hosts=True)
_INTEGER_BINARY = OpRow(inputs=None, hosts=True, cpu=True)
_POOL = OpRow(cpu=True)
_UNARY = OpRow()
_TABLE = OpRow(cpu=True, lazy=True)  # onnxruntime computes these by a table of 256 entries
_MOVE = OpRow(moves=True, cpu=True, lazy=True)

OPS: dict[str, OpRow] = {
    "Conv": _WEIGHTED,
    "ConvTranspose": _WEIGHTED,
    "Gemm": _WEIGHTED,
    "MatMul": OpRow(weight=1, hosts=True, cpu=True),
    "Add": _INTEGER_BINARY,
    "Mul": _INTEGER_BINARY,
    "Sub": _BINARY,
    "Div": _BINARY,
    "Sum": _BINARY,
    "Max": _BINARY,
    "Min": _BINARY,
    "Concat": OpRow(inputs=None, cpu=True, lazy=True),
    "AveragePool": _POOL,
    "GlobalAveragePool": _POOL,
    "ReduceMean": _UNARY,
    "Relu": _UNARY,
    "Clip": _UNARY,
    "LeakyRelu": _TABLE,
    "Sigmoid": _TABLE,
    "PRelu": OpRow(weight=1),
    "HardSigmoid": _UNARY,
    "HardSwish": _UNARY,
    "Tanh": _UNARY,
    "Elu": _UNARY,
    "Gelu": _UNARY,
    "Softmax": OpRow(npu=False),
    "MaxPool": OpRow(moves=True, cpu=True),
    "GlobalMaxPool": OpRow(moves=True, cpu=True),
    "ReduceMax": _MOVE,
    "ReduceMin": _MOVE,
    "Reshape": _MOVE,
    "Flatten": _MOVE,
    "Transpose": _MOVE,
    "Squeeze": _MOVE,
    "Unsqueeze": _MOVE,
    "Slice": _MOVE,
    "Split": _MOVE,
    "Gather": _MOVE,
    "Identity": _MOVE,
    "Dropout": _MOVE,
    "DepthToSpace": _MOVE,
    "SpaceToDepth": _MOVE,
    "Expand": _MOVE,
    "Tile": _MOVE,
    "Pad": _MOVE,
    "Resize": _MOVE,
}


def row_of(node: ir.Node) -> OpRow | None:
    """Return the node's row, None for an op (or a domain) that is not in the table."""
    return OPS.get(node.op_type) if node.domain == "" else None


def moves_data(node: ir.Node) -> bool:
    """True if every output value is one of the input's values, or 0."""
    row = row_of(node)
    if row is None or not row.moves:
        return False
    if node.op_type == "Dropout":
        return len(node.inputs) < 3  # not in training mode
    if node.op_type == "Pad":
        return pads_own_values(node)
    if node.op_type == "Resize":
        return attribute(node, "mode", "nearest") == "nearest" and not attribute(node, "extrapolation_value", 0.0)
    return True


def activation_inputs(node: ir.Node, row: OpRow) -> Iterator[tuple[int, ir.Value]]:
    """Yield (index, value) of the inputs quantized as activations, constant operands included."""
    for index, value in enumerate(node.inputs):
        if value is None or index == row.bias:
            continue
        if index == row.weight:
            if constant(value) is None:
                yield index, value
        elif row.inputs is None or index in row.inputs:
            yield index, value


def data_outputs(node: ir.Node) -> tuple[ir.Value, ...]:
    """Return the outputs that carry activations: all of Split, the first of anything else (no indices, no masks)."""
    return tuple(node.outputs) if node.op_type == "Split" else (node.outputs[0],)


def has_weight(node: ir.Node) -> bool:
    """True for a layer: an op of the table with a place for a weight, constant or not."""
    row = row_of(node)
    return row is not None and row.weight is not None


def weight_axis(node: ir.Node, weight_rank: int) -> int | None:
    """Return the axis of the output channels in the weight, None where per-channel scales cannot be expressed."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return weight_rank - 1 if weight_rank == 2 else None


def window_size(node: ir.Node) -> int:
    """Return how many values an average pool averages; 1 where a dimension is unknown."""
    sizes = attribute(node, "kernel_shape", None)
    if node.op_type == "GlobalAveragePool":
        value = node.inputs[0]
        shape = None if value is None else static_shape(value)
        sizes = None if shape is None else shape[2:]
    return 1 if sizes is None or None in sizes else int(np.prod(sizes, dtype=np.int64))
