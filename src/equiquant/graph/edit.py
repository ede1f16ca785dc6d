"""Editing a graph, safely: the few operations every rewrite is made of.

onnx_ir does not update a value's shape and dtype when its constant is assigned, and a graph output must keep its public
name; these helpers take care of both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common as passes

from equiquant.graph.query import is_public

__all__ = [
    "WRAPPING",
    "Names",
    "add_initializer",
    "bypass",
    "infer_shapes",
    "own_constant",
    "remove_dead",
    "remove_unread",
    "set_initializer",
    "set_input",
]

Array = npt.NDArray[Any]

_inferring: ContextVar[bool] = ContextVar("_inferring", default=False)  # of this thread alone
logging.getLogger("onnx_ir.passes.common.shape_inference").addFilter(lambda _: not _inferring.get())

WRAPPING = frozenset(  # ops that make sequences or optional values
    {"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence"}
    | {"Optional"}
)


class Names:
    """Every name in use in a graph and its bodies, collected once: unused names in O(1), for rewrites that need many.

    Args:
        graph: The main graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._taken: set[str | None] = set()
        for part in (graph, *graph.subgraphs()):
            self._taken.update(v.name for v in part.inputs)
            self._taken.update(part.initializers)
        for node in graph.all_nodes():
            self._taken.add(node.name)
            self._taken.update(v.name for v in node.outputs)

    def fresh(self, base: str) -> str:
        """Return `base`, or `base_1`, `base_2`…, and reserve it."""
        name, count = base, 1
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add a constant under a name not yet used (see `Names`) and return its value."""
    tensor = ir.Tensor(np.ascontiguousarray(array) if array.ndim else np.asarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def set_initializer(value: ir.Value, array: Array) -> None:
    """Replace the numbers of an initializer, with its shape and dtype."""
    tensor = ir.Tensor(np.ascontiguousarray(array) if array.ndim else np.asarray(array), name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(tensor.shape)
    value.type = ir.TensorType(tensor.dtype)


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Set one input of a node, growing the list where an optional input was left out."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def own_constant(node: ir.Node, index: int, array: Array, name: str, names: Names) -> None:
    """Make `array` the input of a node: in place where it alone reads an initializer, else a new one.

    Args:
        node: The node.
        index: Which input; the list grows where an optional input was left out.
        array: The numbers.
        name: What a new one is called; one that replaces another takes after that.
        names: The names in use.
    """
    old = node.inputs[index] if index < len(node.inputs) else None
    alone = old is not None and len(old.uses()) == 1 and not (is_public(old) or old.is_graph_input())
    if old is not None and old.is_initializer() and alone:
        set_initializer(old, array)
        return
    graph = node.graph
    assert graph is not None
    base = name if old is None else old.name or name
    set_input(node, index, add_initializer(graph, names.fresh(base), array))
    if old is not None:
        remove_unread(graph, [old])


def bypass(node: ir.Node, source: ir.Value) -> bool:
    """Remove a one-output node by letting its readers read `source` instead; public names survive.

    Where `source` has a producer and no reader but the node, it takes over the node's name: it holds those values now.

    Returns:
        False, with nothing changed, if the node's output is a graph output and `source` cannot take over its name
        (it is a graph input, an initializer or public itself).
    """
    out = node.outputs[0]
    graph = node.graph
    assert graph is not None
    if out.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not graph or is_public(source):
            return False
        name, shape, kind = out.name, out.shape, out.type
        out.replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        source.name, source.shape, source.type = name, shape, kind
        return True
    alone = source.producer() is not None and not is_public(source) and all(n is node for n in source.consumers())
    name = out.name
    out.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    if alone:
        source.name = name
    return True


def remove_dead(model: ir.Model) -> None:
    """Remove nodes and initializers nothing depends on."""
    passes.RemoveUnusedNodesPass()(model)


def remove_unread(graph: ir.Graph, values: Iterable[ir.Value]) -> None:
    """Remove those of the values, initializers or with the node that makes them, that nothing reads any more."""
    for value in dict.fromkeys(values):
        if value.uses() or value.is_graph_output():
            continue
        producer = value.producer()
        if producer is not None:
            graph.remove(producer, safe=True)
        elif not value.is_graph_input():
            del graph.initializers[value.name or ""]


def infer_shapes(model: ir.Model) -> None:
    """Fill in shapes and types by ONNX shape inference; what cannot be inferred stays unknown.

    A shape in the file that is wrong leaves its own node unknown, not the whole model. A sequence or an optional value
    is of no tensor's type, though onnx_ir takes over its element's. An output keeps the shape it was declared with.
    """
    declared = [(value, value.shape.copy()) for value in model.graph.outputs if value.shape is not None]
    token = _inferring.set(True)  # a failure is no news for the user, still less its traceback: it is not logged
    try:
        passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        _inferring.reset(token)
    for value, shape in declared:
        value.shape = shape
    for value in _wrapped(model):
        if isinstance(value.type, ir.TensorType):
            value.type = value.shape = None


def _wrapped(model: ir.Model) -> set[ir.Value]:
    """Return the sequences and optional values of a model, those that Loop, If and Identity hand on included."""
    found: set[ir.Value] = set()
    count = -1
    while count < len(found):
        count = len(found)
        for node in model.graph.all_nodes():
            if node.op_type in WRAPPING or (node.op_type == "Identity" and node.inputs[0] in found):
                found.update(node.outputs)
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    made = attribute.as_graph().outputs[1 if node.op_type == "Loop" else 0 :]  # a Loop's first goes on
                    found.update(o for o, inner in zip(node.outputs, made, strict=False) if inner in found)
    return found
