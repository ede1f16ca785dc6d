"""Nodes that read nothing but constants, computed once by onnxruntime: reshape targets, cast or standardized weights.

A Shape of a tensor whose shape is static counts as a constant. All such nodes are run in one session.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.rule import STAGE
from equiquant.decisions import Decision
from equiquant.errors import ModelError
from equiquant.graph.edit import add_initializer
from equiquant.graph.query import attribute, constant, label, static_shape
from equiquant.graph.randomness import RANDOM
from equiquant.io import Runner

__all__ = ["fold_constants"]

RULE = "fold_constants"
LEFT = frozenset(
    RANDOM
    | {"Dropout"}  # in training mode another result in every run
    | {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}  # quantized already
    | {"If", "Loop", "Scan", "SequenceMap"}
)
SMALL = 1 << 16  # bytes; a larger result is kept only if it is no larger than its inputs in double precision

Array = npt.NDArray[Any]


def fold_constants(model: ir.Model) -> list[Decision]:
    """Replace the nodes whose inputs are all constants by their results."""
    graph = model.graph
    nodes, known = _foldable(graph)
    try:
        known |= _evaluate(model, [n for n in nodes if n.outputs[0] not in known], known)
    except ModelError as error:
        return [Decision(STAGE, RULE, label(node), False, str(error)) for node in nodes]
    rooms = [sum(known[v].size * 8 for v in node.inputs if v in known) for node in nodes]  # before any is replaced
    decisions = []
    for node, room in zip(nodes, rooms, strict=True):
        arrays = [known[v] for v in node.outputs]
        if sum(a.nbytes for a in arrays) > max(SMALL, room):
            decisions.append(Decision(STAGE, RULE, label(node), False, "its result is much larger than its inputs"))
            continue
        for out, array in zip(node.outputs, arrays, strict=True):
            assert out.name is not None
            out.replace_all_uses_with(add_initializer(graph, out.name, array))
        decisions.append(Decision(STAGE, RULE, label(node), True, "computed: its inputs are constants"))
        graph.remove(node, safe=True)  # and reads its inputs no more
    return decisions


def _foldable(graph: ir.Graph) -> tuple[list[ir.Node], dict[ir.Value, Array]]:
    """Return the nodes that can be computed, in order, and what is known beforehand: constants and static shapes."""
    nodes: list[ir.Node] = []
    known: dict[ir.Value, Array] = {}
    computed: set[ir.Value] = set()
    for node in graph:
        if node.op_type in LEFT or node.domain != "" or any(o.is_graph_output() for o in node.outputs):
            continue
        if node.op_type == "Shape":
            shape = _static(node)
            if shape is None:
                continue
            known[node.outputs[0]] = shape
        else:
            found = {v: constant(v) for v in node.inputs if v is not None and v not in computed}
            unknown = any(a is None for a in found.values()) or not all(map(_is_tensor, node.outputs))
            if unknown or not node.inputs:
                continue
            known |= {v: a for v, a in found.items() if a is not None}
        nodes.append(node)
        computed.update(node.outputs)
    return nodes, known


def _static(node: ir.Node) -> Array | None:
    """Return what a Shape node computes, None if a dimension is dynamic."""
    shape = None if node.inputs[0] is None else static_shape(node.inputs[0])
    if shape is None or None in shape:
        return None
    return np.asarray(shape[attribute(node, "start", 0) : attribute(node, "end", None)], dtype=np.int64)


def _is_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.dtype is not None


def _evaluate(model: ir.Model, nodes: list[ir.Node], known: dict[ir.Value, Array]) -> dict[ir.Value, Array]:
    """Run copies of `nodes` on the known arrays and return every output."""
    if not nodes:
        return {}
    needed = {v for node in nodes for v in node.inputs if v is not None}
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(model.graph.opset_imports), name="constants")
    twin: dict[ir.Value | None, ir.Value | None] = {None: None}
    for value in needed & known.keys():
        twin[value] = add_initializer(graph, value.name or "", known[value])
    for node in nodes:
        outputs = [ir.Value(name=v.name, type=v.type, shape=v.shape) for v in node.outputs]
        twin.update(zip(node.outputs, outputs, strict=True))
        attributes = list(node.attributes.values())
        inputs = [twin[v] for v in node.inputs]
        graph.append(ir.Node("", node.op_type, inputs, attributes, outputs=outputs, name=node.name))
        graph.outputs.extend(outputs)
    runner = Runner(ir.Model(graph, ir_version=model.ir_version), optimize=False, threads=1)
    return dict(zip((v for n in nodes for v in n.outputs), runner.run({}), strict=True))
