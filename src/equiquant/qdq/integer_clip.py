"""Relu and Clip on integers: with symmetric activations the form that lets a layer before them run on integers.

Rounding is monotone, so it commutes with a Clip: Q(min(max(x, a), b)) = min(max(Q(x), Q(a)), Q(b)), to the last bit.
Where the zero point is not the type's smallest integer a Relu does not vanish into the saturation of QuantizeLinear,
and runtimes leave the layer before it in float. Clipping the integers instead keeps the very same numbers.
Source: ONNX operator specification, Clip (integer types since version 12).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir

from equiquant.graph.edit import add_initializer, remove_unread
from equiquant.graph.query import clip_ends, constant, sole_consumer
from equiquant.numerics.affine import INT_TYPES, QuantParams, quantize
from equiquant.target.ranges import clip_bounds

__all__ = ["clip_integers"]


def clip_integers(model: ir.Model, quantized: Collection[str], unique: Callable[[str], str]) -> int:
    """Move every Relu and Clip between a quantized node and a QuantizeLinear behind it; return how many moved.

    Args:
        model: The QDQ model, changed in place.
        quantized: Names of the quantized nodes.
        unique: Makes a name that is not taken.
    """
    count = 0
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type not in ("Relu", "Clip") or node.domain or source is None:
            continue
        host, rounding = source.producer(), sole_consumer(node.outputs[0])
        if host is None or host.name not in quantized or sole_consumer(source) is not node:
            continue
        if rounding is None or rounding.op_type != "QuantizeLinear":
            continue
        ends = _ends(node, rounding)
        if ends is not None:
            _move(model.graph, node, rounding, ends, unique)
            count += 1
    return count


def _ends(node: ir.Node, rounding: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the bounds as integers, None if they are unknown, those of the type, or of a type without a kernel."""
    if None in clip_ends(node):
        return None
    scale, zero = constant(rounding.inputs[1]), constant(rounding.inputs[2])
    if scale is None or zero is None or scale.size != 1:
        return None
    kind = INT_TYPES[zero.dtype.name]
    if kind.bits != 8:  # onnxruntime has no Clip on 16-bit integers
        return None
    params = QuantParams(scale.reshape(()), zero.reshape(()), kind)
    low, high = (quantize(np.array(end), params) for end in clip_bounds(node))
    return None if (int(low), int(high)) == (kind.qmin, kind.qmax) else (low, high)


def _move(
    graph: ir.Graph,
    node: ir.Node,
    rounding: ir.Node,
    ends: tuple[np.ndarray, np.ndarray],
    unique: Callable[[str], str],
) -> None:
    integers = rounding.outputs[0]
    bounds = [
        add_initializer(graph, unique(f"{integers.name}_{end}"), value)
        for end, value in zip(("min", "max"), ends, strict=True)
    ]
    readers = list(integers.uses())
    clipped = ir.Value(name=unique(f"{integers.name}_clipped"))
    clipped.shape, clipped.type = integers.shape, integers.type
    graph.insert_after(
        rounding, ir.node("Clip", [integers, *bounds], outputs=[clipped], name=unique(f"{node.name}_integers"))
    )
    for use in readers:
        use.node.replace_input_with(use.idx, clipped)
    rounding.replace_input_with(0, node.inputs[0])
    replaced = [value for value in node.inputs[1:] if value is not None]
    graph.remove(node, safe=True)
    remove_unread(graph, replaced)
