"""The layers of a survey: what mixed precision may raise to 16 bits or leave float, one at a time.

A layer is a quantized Conv, ConvTranspose, Gemm or MatMul with the activations fused into it: they leave the integers
together. In 16 bits it reads and writes 16-bit activations, its weights and bias staying what they are; a neighbour
takes those tensors as they are, and so does every tensor that shares its parameters with them.
Source: AMD Quark documentation, "Mixed precision" (`MixedPrecisionTensor`: types by tensor, no conversions between).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx_ir as ir

from equiquant.graph.cost import multiplications
from equiquant.graph.query import LINEAR_OPS, constant, sole_consumer
from equiquant.numerics.affine import INT_TYPES
from equiquant.target.table.ops import activation_inputs, data_outputs, row_of
from equiquant.target.table.targets import Target

__all__ = ["Layer", "layers", "sixteen_bit"]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: Its node.
        op_type: The node's kind.
        nodes: The node and the activations fused into it, by name.
        inputs: Names of the rounded tensors it reads.
        outputs: Names of the rounded tensors it writes.
        handed_out: Those of them that no quantized node reads: rounded only because this layer is quantized.
        multiplications: Of one sample; 0 where both operands are activations.
        weights: Number of its weights.
    """

    name: str
    op_type: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    handed_out: tuple[str, ...]
    multiplications: float
    weights: int


def layers(model: ir.Model, nodes: Collection[str], tensors: Collection[str]) -> tuple[Layer, ...]:
    """Return the quantized layers in graph order.

    Args:
        model: The surveyed model; only read.
        nodes: Names of the quantized nodes, fused ones included.
        tensors: Names of the rounded tensors.
    """
    found = []
    for node in model.graph:
        row = row_of(node)
        if node.name not in nodes or row is None or node.op_type not in LINEAR_OPS:
            continue
        chain = _fused(node, nodes, tensors)
        inputs = [v.name or "" for _, v in activation_inputs(node, row) if v.name in tensors]
        outputs = [v for v in data_outputs(chain[-1]) if v.name in tensors]
        handed_out = [v for v in outputs if all(reader.name not in nodes for reader in v.consumers())]
        weight = constant(node.inputs[1])
        found.append(
            Layer(
                node.name or "",
                node.op_type,
                tuple(n.name or "" for n in chain),
                tuple(dict.fromkeys(inputs)),
                tuple(v.name or "" for v in outputs),
                tuple(v.name or "" for v in handed_out),
                multiplications(node),
                0 if weight is None else weight.size,
            )
        )
    return tuple(found)


def _fused(node: ir.Node, nodes: Collection[str], tensors: Collection[str]) -> list[ir.Node]:
    """Return a node with the activations computed before its result is rounded."""
    chain = [node]
    while (value := chain[-1].outputs[0]).name not in tensors:
        reader = sole_consumer(value)
        if reader is None or reader.name not in nodes:
            break
        chain.append(reader)
    return chain


def sixteen_bit(target: Target) -> Target:
    """Return the target with 16-bit activations whose whole range is kept: at 16 bits clipping gains nothing.

    >>> from equiquant.recipe import preset
    >>> from equiquant.target import target_of
    >>> [sixteen_bit(target_of(preset(name))).activation.name for name in ("xint8", "a8w8")]
    ['int16', 'uint16']
    """
    signed = target.activation.signed or target.activation_symmetric
    return replace(target.unclipped, activation=INT_TYPES["int16" if signed else "uint16"])
