"""Relu, Clip and Min on integers: the form that lets a layer before them run on integers.

Rounding is monotone, so it commutes with a Clip: Q(min(max(x, a), b)) = min(max(Q(x), Q(a)), Q(b)), to the last bit.
A bound that is no end of the type (the zero point is not its smallest integer, or each channel has a bound of its own)
does not vanish into the saturation of QuantizeLinear, and runtimes leave the layer before it in float. Clipping the
integers instead keeps the very same numbers.
Source: ONNX operator specification, Clip (integer types since version 12).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx_ir as ir

from equiquant.graph.bounds import clip_bounds
from equiquant.graph.edit import add_initializer, remove_unread
from equiquant.graph.query import clip_ends, constant, sole_consumer, static_shape
from equiquant.numerics.affine import INT_TYPES, QuantParams, quantize

__all__ = ["clip_integers"]

Unique = Callable[[str], str]


def clip_integers(model: ir.Model, quantized: Collection[str], unique: Unique) -> None:
    """Move every Relu, Clip and Min between a quantized node and a QuantizeLinear behind it.

    Args:
        model: The QDQ model, changed in place.
        quantized: Names of the quantized nodes.
        unique: Makes a name that is not taken.
    """
    for node in reversed(list(model.graph)):  # a Min before the Relu in front of it
        source = node.inputs[0] if node.inputs else None
        if node.op_type not in ("Relu", "Clip", "Min") or node.domain or source is None:
            continue
        host, rounding = source.producer(), sole_consumer(node.outputs[0])
        if host is None or host.name not in quantized or sole_consumer(source) is not node:
            continue
        grid = _grid(rounding) if rounding is not None and rounding.op_type == "QuantizeLinear" else None
        if rounding is None or grid is None:
            continue
        if node.op_type == "Min":
            form = _minimum(model.graph, node, rounding.outputs[0], grid, unique)
        else:
            form = _clip(model.graph, node, rounding.outputs[0], grid, unique)
        if form:
            _move(model.graph, node, rounding, form)


def _grid(linear: ir.Node) -> QuantParams | None:
    """Return the parameters of a tensor in 8 bits: onnxruntime clips no 16-bit integers."""
    scale, zero = constant(linear.inputs[1]), constant(linear.inputs[2])
    if scale is None or zero is None or scale.size != 1 or zero.itemsize != 1:
        return None
    return QuantParams(scale.reshape(()), zero.reshape(()), INT_TYPES[zero.dtype.name])


def _clip(graph: ir.Graph, node: ir.Node, integers: ir.Value, grid: QuantParams, unique: Unique) -> list[ir.Node]:
    """Return the Clip of the integers; none if its bounds are unknown or those of the type."""
    if None in clip_ends(node):
        return []
    ends = [quantize(np.array(end), grid) for end in clip_bounds(node)]
    if [int(end) for end in ends] == [grid.type.qmin, grid.type.qmax]:
        return []
    names = [unique(f"{integers.name}_{end}") for end in ("min", "max")]
    bounds = [add_initializer(graph, name, end) for name, end in zip(names, ends, strict=True)]
    return [_node("Clip", [integers, *bounds], integers.dtype, unique(f"{node.name}_integers"))]


def _minimum(graph: ir.Graph, node: ir.Node, integers: ir.Value, grid: QuantParams, unique: Unique) -> list[ir.Node]:
    """Return the Min of the integers, of which onnxruntime before 1.24 has only a wide one.

    There is none on unequal grids, nor where the bound makes the tensor larger: what is rounded before is smaller.
    """
    bound = node.inputs[1].producer() if node.inputs[1] is not None else None
    if bound is None or bound.op_type != "DequantizeLinear" or _grid(bound) != grid:
        return []
    stored = constant(bound.inputs[0])
    assert stored is not None
    if not _keeps_shape(stored.shape, node.inputs[0]):
        return []
    ends = add_initializer(graph, unique(f"{integers.name}_max"), stored.astype(np.int32))
    wide = _node("Cast", [integers], ir.DataType.INT32, unique(f"{node.name}_wide"))
    least = _node("Min", [wide.outputs[0], ends], ir.DataType.INT32, unique(f"{node.name}_integers"))
    return [wide, least, _node("Cast", least.outputs, integers.dtype, unique(f"{node.name}_narrow"))]


def _keeps_shape(bound: tuple[int, ...], value: ir.Value | None) -> bool:
    """True if a bound of this shape is known to be spread over the value, and not the value over the bound."""
    shape = None if value is None else static_shape(value)
    if shape is None or len(shape) < len(bound):
        return False
    return all(size in (1, own) for size, own in zip(reversed(bound), reversed(shape), strict=False))


def _node(op_type: str, inputs: Sequence[ir.Value], dtype: ir.DataType | None, name: str) -> ir.Node:
    """Return a node whose result has this type, and the shape of its first input."""
    output = ir.Value(
        name=f"{name}_Output", shape=inputs[0].shape, type=None if dtype is None else ir.TensorType(dtype)
    )
    return ir.node(op_type, inputs, {"to": dtype} if op_type == "Cast" else {}, outputs=[output], name=name)


def _move(graph: ir.Graph, node: ir.Node, rounding: ir.Node, form: list[ir.Node]) -> None:
    """Let the integers of the rounding be read clipped, and not what it rounds."""
    readers = [use for use in rounding.outputs[0].uses() if use.node is not form[0]]
    graph.insert_after(rounding, form)
    for use in readers:
        use.node.replace_input_with(use.idx, form[-1].outputs[0])
    rounding.replace_input_with(0, node.inputs[0])
    replaced = [value for value in node.inputs[1:] if value is not None]
    stored = [value for end in replaced if (maker := end.producer()) is not None for value in maker.inputs]
    graph.remove(node, safe=True)
    for use in readers:  # comparisons find a tensor by its name
        restored = use.node.outputs[0]
        if use.node.op_type == "DequantizeLinear" and not restored.is_graph_output():
            restored.name = node.outputs[0].name
    remove_unread(graph, [*replaced, *(value for value in stored if value is not None)])
