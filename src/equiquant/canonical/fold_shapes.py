"""Numbers computed from a shape that is known in part: those that no dynamic dimension has a say in become constants.

Exporters write `x.chunk(2, 1)`, `x.view(n, -1, h, w)` or a grid of heads as arithmetic on `Shape(x)`. With a dynamic
batch the Shape is no constant, but the number of channels picked from it is, and so is what is made of that: the bounds
of a Slice, the target of a Reshape. The arithmetic is followed on masked arrays; what is not masked in the end depends
on known dimensions alone. And a target of which a single dimension is dynamic needs no computing: it is −1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.rule import STAGE
from equiquant.decisions import Decision
from equiquant.graph.edit import Names, add_initializer
from equiquant.graph.query import attribute, constant, label, static_shape

__all__ = ["fold_shapes"]

RULE = "fold_shapes"
COMPUTED = "computed: no dynamic dimension has a say in it"
DEDUCED = "the one dynamic dimension of its target follows from the others"
LARGEST = 64  # numbers; no shape is longer

Partly = np.ma.MaskedArray[Any, np.dtype[np.int64]]
Array = npt.NDArray[Any]


def fold_shapes(model: ir.Model) -> list[Decision]:
    """Replace nodes that compute with shapes by their results, where these are the same whatever the dynamic sizes."""
    graph, names = model.graph, Names(model.graph)
    partly: dict[ir.Value, Partly] = {}
    decisions = []
    for node in tuple(graph):
        if node.op_type == "Reshape" and node.domain == "" and (target := _target(node, partly)) is not None:
            constant_target = add_initializer(graph, names.fresh(f"{node.name}_target"), target)
            node.replace_input_with(1, constant_target)
            decisions.append(Decision(STAGE, RULE, label(node), True, DEDUCED))
            continue
        result = None if node.domain != "" else _followed(node, partly)
        if result is None:
            continue
        out = node.outputs[0]
        partly[out] = result
        if np.ma.getmaskarray(result).any() or out.is_graph_output() or out.name is None or out.dtype is None:
            continue
        out.replace_all_uses_with(value := add_initializer(graph, out.name, result.data.astype(out.dtype.numpy())))
        partly[value] = result
        decisions.append(Decision(STAGE, RULE, label(node), True, COMPUTED))
        graph.remove(node, safe=True)
    return decisions


def _followed(node: ir.Node, partly: Mapping[ir.Value, Partly]) -> Partly | None:
    """Return what is known of a node's result; None if the node is no arithmetic on shapes."""
    if node.op_type == "Shape":
        shape = None if node.inputs[0] is None else static_shape(node.inputs[0])
        if shape is None:
            return None
        some = shape[attribute(node, "start", 0) : attribute(node, "end", None)]
        sizes = [1 if d is None else d for d in some]
        return np.ma.masked_array(sizes, [d is None for d in some], dtype=np.int64)
    rule = RULES.get(node.op_type)
    if rule is None or not any(v in partly for v in node.inputs):
        return None
    operands = []
    for value in node.inputs:
        operand = _operand(value, partly)
        if operand is None:
            return None
        operands.append(operand)
    try:
        return rule(node, operands)
    except (IndexError, ValueError):
        return None  # what onnxruntime would refuse, too


def _target(node: ir.Node, partly: Mapping[ir.Value, Partly]) -> Array | None:
    """Return the target of a Reshape with −1 for the one dimension that is dynamic; None if there is not just one."""
    shape = node.inputs[1] if len(node.inputs) > 1 else None
    wanted = None if shape is None else partly.get(shape)
    if wanted is None or wanted.ndim != 1:
        return None
    dynamic = np.ma.getmaskarray(wanted)
    return np.where(dynamic, -1, wanted.data) if dynamic.sum() == 1 and (wanted.data[~dynamic] > 0).all() else None


def _operand(value: ir.Value | None, partly: Mapping[ir.Value, Partly]) -> Partly | None:
    if value is not None and value in partly:
        return partly[value]
    array = constant(value)
    if array is None or array.dtype.kind != "i" or array.size > LARGEST:
        return None
    return np.ma.masked_array(array.astype(np.int64), np.zeros(array.shape, bool))


def _gather(node: ir.Node, operands: Sequence[Partly]) -> Partly | None:
    data, places = operands
    if data.ndim != 1 or np.ma.getmaskarray(places).any():
        return None
    return np.ma.masked_array(data.data[places.data], np.ma.getmaskarray(data)[places.data])


def _slice(node: ir.Node, operands: Sequence[Partly]) -> Partly | None:
    data, *others = operands
    if data.ndim != 1 or len(others) < 2 or any(np.ma.getmaskarray(a).any() or a.size != 1 for a in others):
        return None
    start, end, *more = (int(a.data.reshape(-1)[0]) for a in others)
    return data[start : end : more[1] if len(more) > 1 else 1]


def _concat(node: ir.Node, operands: Sequence[Partly]) -> Partly | None:
    if any(a.ndim != 1 for a in operands):
        return None
    masks = np.concatenate([np.ma.getmaskarray(a) for a in operands])
    return np.ma.masked_array(np.concatenate([a.data for a in operands]), masks)


def _same(node: ir.Node, operands: Sequence[Partly]) -> Partly | None:
    kind = attribute(node, "to", int(ir.DataType.INT64))
    return operands[0] if kind in (ir.DataType.INT32, ir.DataType.INT64) else None


def _reshaped(node: ir.Node, operands: Sequence[Partly]) -> Partly | None:
    """Squeeze, Unsqueeze: between a number and a list of it."""
    data = operands[0]
    if data.size != 1:
        return None
    return data.reshape(()) if node.op_type == "Squeeze" else data.reshape((1,)) if data.ndim == 0 else None


def _product(node: ir.Node, operands: Sequence[Partly]) -> Partly | None:
    data = operands[0]
    if data.ndim != 1 or len(operands) > 1 or attribute(node, "axes", [0]) != [0]:
        return None
    shape = (1,) if attribute(node, "keepdims", 1) else ()
    product, masked = data.data.prod(), np.ma.getmaskarray(data).any()
    return np.ma.masked_array(np.full(shape, product), np.full(shape, masked), dtype=np.int64)


def _elementwise(function: Callable[[Array, Array], Array]) -> Callable[[ir.Node, Sequence[Partly]], Partly | None]:
    def rule(node: ir.Node, operands: Sequence[Partly]) -> Partly | None:
        total = operands[0]
        for other in operands[1:]:
            masked = np.ma.getmaskarray(total) | np.ma.getmaskarray(other)
            total = np.ma.masked_array(function(total.data, other.data), masked)
        return total

    return rule


def _divided(left: Array, right: Array) -> Array:
    if (left < 0).any() or (right <= 0).any():
        raise ValueError("rounds another way, or is undefined")
    return left // right


RULES: Mapping[str, Callable[[ir.Node, Sequence[Partly]], Partly | None]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Cast": _same,
    "Identity": _same,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "ReduceProd": _product,
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divided),
    "Max": _elementwise(np.maximum),
    "Min": _elementwise(np.minimum),
}
