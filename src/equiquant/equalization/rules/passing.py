"""Elementwise ops with f(s·x) = s·f(x) for s > 0: the output's classes are the input's."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.equalization.builder import PINNED, ClassBuilder
from equiquant.equalization.rules.linear import refuse
from equiquant.graph import query

__all__ = ["blind", "constant", "dropout", "homogeneous", "prelu"]


def homogeneous(builder: ClassBuilder, node: ir.Node) -> None:
    """Relu, LeakyRelu (any slope), Abs, Neg, Identity, and Cast between float types."""
    source, target = node.inputs[0], node.outputs[0]
    if node.op_type == "Cast":
        kinds = (source.dtype if source is not None else None, target.dtype)
        if any(kind is None or not kind.is_floating_point() for kind in kinds):
            return refuse(builder, node, "Cast to or from a type that is not float")
    return builder.set(target, builder.ids(source))


def prelu(builder: ClassBuilder, node: ir.Node) -> None:
    """PRelu with a constant slope, which needs no change whatever its shape."""
    if query.constant(node.inputs[1]) is None:
        return refuse(builder, node, "its slope is not a constant")
    return builder.set(node.outputs[0], builder.ids(node.inputs[0]))


def dropout(builder: ClassBuilder, node: ir.Node) -> None:
    """Dropout at inference is the identity; a training-mode input that is not a constant False is refused."""
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    flag = query.constant(mode)
    if mode is not None and (flag is None or bool(flag.item())):
        return refuse(builder, node, "Dropout in training mode")
    builder.set(node.outputs[0], builder.ids(node.inputs[0]))
    for mask in node.outputs[1:]:
        builder.set(mask, PINNED)
    return None


def blind(builder: ClassBuilder, node: ir.Node) -> None:
    """Shape and Size read no numbers: they pin nothing."""
    builder.set(node.outputs[0], PINNED)


def constant(builder: ClassBuilder, node: ir.Node) -> None:
    """A Constant node's value stays a constant: rules read it with `query.constant`."""
