"""Take a piece out of a graph, to be run on its own.

The values kept from one piece to the next are few and, in a quantized model, integers: a DequantizeLinear runs again in
every piece that reads what it makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from equiquant.graph.query import reads

__all__ = ["RUN_AGAIN", "extract", "held"]

RUN_AGAIN = ("DequantizeLinear", "Constant")
"""Op types that run in every piece that reads what they make."""


def held(value: ir.Value) -> ir.Value:
    """Return what is kept in place of a value: what goes into the DequantizeLinear that makes it, else itself."""
    node = value.producer()
    while node is not None and node.op_type == "DequantizeLinear":
        source = node.inputs[0]
        assert source is not None
        value, node = source, source.producer()
    return value


def extract(model: ir.Model, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> ir.Model:
    """Return a model of copies of the nodes; what they read and none of them makes becomes an input.

    Args:
        model: What they are part of.
        nodes: The nodes, in the order they run in.
        outputs: What the piece hands on.
    """
    values: dict[ir.Value, ir.Value] = {}
    inputs: list[ir.Value] = []
    constants: list[ir.Value] = []
    copies: list[ir.Node] = []

    def value_of(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in values:
            return None if value is None else values[value]
        node = value.producer()
        if node is not None and node.op_type in RUN_AGAIN:
            copy(node)
            return values[value]
        fresh = ir.Value(name=value.name, type=value.type, const_value=value.const_value)
        if value.is_initializer():
            fresh.shape = value.shape
            constants.append(fresh)
        else:
            shape = value.shape
            if shape is not None and len(shape) > 1:  # a list keeps its length: shape inference counts on it
                shape = ir.Shape([None] * len(shape))
            fresh.shape = shape
            inputs.append(fresh)
        values[value] = fresh
        return fresh

    def copy(node: ir.Node) -> None:
        made = [ir.Value(name=v.name, type=v.type) for v in node.outputs]
        for read in reads(node):  # what a body captures is found by its name
            value_of(read)
        sources = [value_of(v) for v in node.inputs]
        copies.append(
            ir.Node(node.domain, node.op_type, sources, node.attributes.values(), outputs=made, name=node.name)
        )
        values.update(zip(node.outputs, made, strict=True))

    for node in nodes:
        copy(node)
    handed = [value_of(value) for value in outputs]  # before the graph takes what they need
    graph = ir.Graph(
        inputs,
        [value for value in handed if value is not None],
        nodes=copies,
        initializers=constants,
        opset_imports=dict(model.graph.opset_imports),
        name="piece",
    )
    return ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))
