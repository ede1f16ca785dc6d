"""Reading a graph: constants, attributes, who uses a value and whether anybody outside can see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "FINITE",
    "FLOAT_KINDS",
    "LINEAR_OPS",
    "TEXT_KINDS",
    "all_graphs",
    "attribute",
    "becomes_output",
    "bodies",
    "clip_ends",
    "constant",
    "constant_producer",
    "exponent",
    "filled_with",
    "infinite_constant",
    "integers",
    "is_float",
    "is_gate",
    "is_public",
    "is_square",
    "label",
    "name_of",
    "nodes_by_name",
    "operands",
    "opset",
    "origin",
    "pads_own_values",
    "rank",
    "reads",
    "sole_consumer",
    "static_shape",
    "stored",
    "values_by_name",
]

Array = npt.NDArray[Any]

FLOAT_KINDS, TEXT_KINDS = "fV", "OSU"
"""numpy's kinds of floats, V being bfloat16, and of words."""

LINEAR_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Op types that multiply by a weight and add up."""

NO_BOUND = 3.4028234e38  # the largest float32, which exporters write where a Clip has no bound

FINITE = LINEAR_OPS | {"BatchNormalization"}
"""Op types whose parameters are finite: models in which one is not are refused."""


def label(node: ir.Node) -> str:
    """Return the node's name, as decisions and errors cite it."""
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"


def name_of(value: ir.Value | None) -> str:
    """Return a value's name, empty where there is no value or it has none."""
    return (value.name if value is not None else "") or ""


def nodes_by_name(model: ir.Model) -> dict[str, ir.Node]:
    """Return the nodes of the main graph by their names."""
    return {node.name or "": node for node in model.graph}


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """Return the values of the main graph by their names: inputs, initializers and what nodes compute."""
    graph = model.graph
    computed = (value for node in graph for value in node.outputs)
    return {name_of(value): value for value in (*graph.inputs, *graph.initializers.values(), *computed)}


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return an attribute's python value, or `default` where it is absent."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def integers(node: ir.Node, index: int, name: str = "") -> list[int] | None:
    """Return integers given as an attribute (old opsets) or a constant input; None where they are neither."""
    given = attribute(node, name, None) if name else None
    if given is None and index < len(node.inputs):
        given = constant(node.inputs[index])
    return None if given is None else [int(v) for v in np.asarray(given).reshape(-1)]


def opset(model: ir.Model) -> int:
    """Return the version of the default operator set."""
    return model.graph.opset_imports.get("", 1)


def origin(value: ir.Value | None, moves: Callable[[ir.Node], bool]) -> ir.Node | None:
    """Return the node that computed what ops that only move data, as `moves` tells, handed on as this value."""
    node = None if value is None else value.producer()
    while node is not None and moves(node):
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return node


def constant(value: ir.Value | None) -> Array | None:
    """Return the value's numbers if they can never change, else None.

    An initializer that is also a graph input can be overridden by the caller: it is not constant. Constant nodes count.
    The array is read-only.
    """
    if value is None:
        return None
    node = value.producer()
    if node is not None:
        return _constant_node(node) if node.op_type == "Constant" and node.domain == "" else None
    if value.const_value is None or value.is_graph_input() or not value.is_initializer():
        return None
    return value.const_value.numpy()


def clip_ends(node: ir.Node) -> tuple[float | None, float | None]:
    """Return the bounds of a Clip of any opset: infinite where there is none, None where one is computed."""
    return _clip_end(node, 1, "min", -math.inf), _clip_end(node, 2, "max", math.inf)


def _clip_end(node: ir.Node, index: int, name: str, nothing: float) -> float | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    number = np.asarray(attribute(node, name, nothing)) if value is None else constant(value)
    if number is None or number.size != 1:
        return None
    end = float(number.reshape(()))
    return nothing if abs(end) >= NO_BOUND and (end > 0) == (nothing > 0) else end


def infinite_constant(node: ir.Node) -> ir.Value | None:
    """Return a constant the node reads that is infinite: the −∞ of a mask or a maximum, not the bound of a Clip."""
    if node.op_type in FINITE or node.op_type == "Clip":
        return None
    for value in node.inputs:
        array = constant(value)
        if array is not None and array.dtype.kind in FLOAT_KINDS and not np.isfinite(array.astype(np.float32)).all():
            return value
    return None


def constant_producer(value: ir.Value) -> ir.Node | None:
    """Return the Constant node behind a value, None for initializers and everything else."""
    node = value.producer()
    return node if node is not None and node.op_type == "Constant" and node.domain == "" else None


def _constant_node(node: ir.Node) -> Array | None:
    for name, attr in node.attributes.items():
        if name == "value":
            return np.asarray(attr.as_tensor().numpy())
        if name in ("value_float", "value_floats"):
            return np.asarray(attr.value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(attr.value, dtype=np.int64)
    return None


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph of a model: its own, its functions', and those inside of any."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield graph
        yield from graph.subgraphs()


def stored(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield the tensors a graph holds, with their values: initializers that have data, and those of Constant nodes.

    In a function a Constant may stand for an attribute of the call, and holds none.
    """
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield value, value.const_value
    for node in graph:
        value_of = node.attributes.get("value") if node.op_type == "Constant" and node.domain == "" else None
        if value_of is not None and not value_of.is_ref():
            yield node.outputs[0], value_of.as_tensor()


def is_float(value: ir.Value) -> bool:
    """True for a float tensor, and where the type is unknown."""
    return value.type is None or (isinstance(value.type, ir.TensorType) and value.type.dtype.is_floating_point())


def is_public(value: ir.Value) -> bool:
    """True if something besides this graph's own nodes reads the value: a graph output, or an If/Loop/Scan body."""
    if value.is_graph_output():
        return True
    home = value.graph
    return any(use.node.graph is not home for use in value.uses())


def becomes_output(value: ir.Value, through: Callable[[ir.Node, ir.Value], bool]) -> bool:
    """True if the value is a graph output, or becomes one by nodes that `through` lets it pass, the input given."""
    pending = [value]
    for reached in pending:  # which grows
        if reached.is_graph_output():
            return True
        passed = [v for node in reached.consumers() if through(node, reached) for v in node.outputs]
        pending += [v for v in passed if v not in pending]
    return False


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads: its inputs, and what the bodies of an If, Loop or Scan capture from around them."""
    yield from (v for v in node.inputs if v is not None)
    for body in bodies(node):
        within = {body, *body.subgraphs()}
        used = [v for graph in within for v in graph.outputs]
        used += [v for inner in body.all_nodes() for v in inner.inputs if v is not None]
        yield from (v for v in used if v.graph not in within)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the bodies of an If, Loop or Scan."""
    for attribute in node.attributes.values():
        graphs = {ir.AttributeType.GRAPH: [attribute.value], ir.AttributeType.GRAPHS: attribute.value}
        yield from graphs.get(attribute.type, ())


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads the value, None if there are several, none, or it is public."""
    consumers = value.consumers()
    return consumers[0] if len(consumers) == 1 and not is_public(value) else None


def rank(value: ir.Value) -> int | None:
    """Return the number of dimensions, None if unknown."""
    return None if value.shape is None else len(value.shape)


def static_shape(value: ir.Value) -> tuple[int | None, ...] | None:
    """Return the shape with None for dynamic dimensions, None if even the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape)


def is_gate(node: ir.Node) -> bool:
    """True for the HardSigmoid that hardware has, clip(x/6 + 1/2, 0, 1)."""
    if node.op_type != "HardSigmoid" or node.domain != "":
        return False
    found = (attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5))
    return bool(np.allclose(found, (1 / 6, 0.5), rtol=1e-4))


def operands(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that are no constants."""
    return [value for value in node.inputs if value is not None and constant(value) is None]


def exponent(node: ir.Node) -> float | None:
    """Return the number a Pow raises what it reads to; None where there are several, and of other nodes."""
    found = constant(node.inputs[1]) if node.op_type == "Pow" and node.domain == "" else None
    return None if found is None or found.size != 1 else float(found.reshape(()))


def is_square(node: ir.Node) -> bool:
    """True for the product of a value with itself, and its second power."""
    product = node.op_type == "Mul" and node.domain == "" and node.inputs[0] is node.inputs[1]
    return product or exponent(node) == 2


def pads_own_values(node: ir.Node) -> bool:
    """True for a Pad that fills in values of the tensor it pads, or 0."""
    return attribute(node, "mode", "constant") != "constant" or filled_with(node) == 0


def filled_with(node: ir.Node) -> float | None:
    """Return the number a Pad fills in; None where it is computed, or one of the tensor's own."""
    if attribute(node, "mode", "constant") != "constant":
        return None
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return float(attribute(node, "value", 0.0))
    fill = constant(node.inputs[2])
    return None if fill is None or fill.size != 1 else float(fill.astype(np.float64).reshape(()))
