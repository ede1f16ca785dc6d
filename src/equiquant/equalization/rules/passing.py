"""Elementwise ops with f(s·x) = s·f(x) for s > 0: the output's classes are the input's."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.equalization.builder import ClassBuilder
from equiquant.graph import query

__all__ = ["blind", "cast", "constant", "dropout", "homogeneous", "prelu"]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def homogeneous(builder: ClassBuilder, node: ir.Node) -> None:
    """Relu, LeakyRelu (any slope), Abs, Neg, Identity."""
    builder.set(node.outputs[0], builder.ids(node.inputs[0]))


def cast(builder: ClassBuilder, node: ir.Node) -> None:
    """Cast between float types of at least 16 bits; narrower ones have too little range to move in."""
    source, target = node.inputs[0], node.outputs[0]
    if source is None or source.dtype not in FLOATS or target.dtype not in FLOATS:
        return builder.refuse(node, "it casts from or to a type that is not float")
    return builder.set(target, builder.ids(source))


def prelu(builder: ClassBuilder, node: ir.Node) -> None:
    """PRelu: the slope multiplies, so it keeps its scale, whatever its shape."""
    builder.pin(builder.ids(node.inputs[1]), node, "the slope of a PRelu")
    builder.set(node.outputs[0], builder.ids(node.inputs[0]))


def dropout(builder: ClassBuilder, node: ir.Node) -> None:
    """Dropout at inference is the identity; a training-mode input that is not a constant False is refused."""
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    flag = query.constant(mode)
    if mode is not None and (flag is None or bool(flag.item())):
        return builder.refuse(node, "Dropout in training mode")
    builder.set(node.outputs[0], builder.ids(node.inputs[0]))
    for mask in node.outputs[1:]:
        builder.set(mask, builder.fixed(node, "a mask"))
    return None


def blind(builder: ClassBuilder, node: ir.Node) -> None:
    """Shape and Size read no numbers: they pin nothing."""
    builder.set(node.outputs[0], builder.fixed(node, "a shape"))


def constant(builder: ClassBuilder, node: ir.Node) -> None:
    """A Constant node's value stays a constant: rules read it with `query.constant`."""
