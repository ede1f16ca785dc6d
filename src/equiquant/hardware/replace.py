"""Putting new nodes in the place of one: they take over its name, its readers and its place among the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

__all__ = ["described", "replace_node"]


def described(node: ir.Node, like: ir.Value, name: str, shape: ir.Shape | None = None) -> ir.Value:
    """Name a new node's result, of the type (and, unless given, shape) of another value, and return it."""
    out = node.outputs[0]
    out.name, out.type, out.shape = name, like.type, like.shape if shape is None else shape
    return out


def replace_node(node: ir.Node, nodes: Sequence[ir.Node], results: Sequence[ir.Value]) -> None:
    """Put `nodes` where `node` is and let `results` stand for its outputs, name by name."""
    graph = node.graph
    assert graph is not None
    graph.insert_after(node, nodes)
    named = [(old.name, old.shape, old.type) for old in node.outputs]
    for old, new in zip(node.outputs, results, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    for (name, shape, kind), new in zip(named, results, strict=True):
        new.name, new.shape, new.type = name, shape, kind
