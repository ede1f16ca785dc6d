"""Operators that an affine map of the channels may be taken through: op(s∘x + t) = s∘op(x) + t.

    Relu, LeakyRelu, PRelu, Pad with zeros     s > 0 (any s for Pad), t = 0
    Add, Sum, one operand of several           s = 1
    MaxPool, GlobalMaxPool                     s > 0
    AveragePool                                t = 0 where what is padded counts
    GlobalAveragePool, Transpose, Reshape, …   always

Source: ONNX operator specification.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import attribute, integers, pads_own_values, static_shape

__all__ = ["CARRIERS", "SCALED", "SHIFTED", "Place", "channel_place", "commutes"]

Factor = npt.NDArray[np.float64] | None
Place = tuple[int, int]
"""The channel axis of a tensor, counted from the front, and the tensor's rank."""

RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
CARRIERS = RESHAPING | {"Transpose", "MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool"}
"""Op types that may let scale and shift through."""
SCALED = CARRIERS | {"Relu", "LeakyRelu", "PRelu", "Pad"}
"""Those that may let a scale through."""
SHIFTED = CARRIERS | {"Add", "Sum"}
"""Those that may let a shift through."""


def commutes(node: ir.Node, scale: Factor, shift: Factor) -> bool:
    """True if the map may be taken before an operator of `SCALED` or `SHIFTED`, or after it.

    Args:
        node: The operator.
        scale: (channels,) s, None for 1.
        shift: (channels,) t, None for 0.
    """
    positive = scale is None or bool((scale > 0).all())
    match node.op_type:
        case "Relu" | "LeakyRelu" | "PRelu":
            return positive and shift is None
        case "Pad":
            return shift is None and pads_own_values(node)
        case "Add" | "Sum":
            return scale is None
        case "MaxPool" | "GlobalMaxPool":
            return positive and not any(output.uses() or output.is_graph_output() for output in node.outputs[1:])
        case "AveragePool":
            return shift is None or not _counts_padding(node)
    return True


def channel_place(node: ir.Node, index: int, axis: int, channels: int, *, back: bool = False) -> Place | None:
    """Return where the channels of an operator's result lie by where its input's do, or the other way round.

    None if that is unknown.

    Args:
        node: The operator.
        index: Which input.
        axis: The channel axis of the input; of the result if `back`.
        channels: Size of the axis.
        back: Whether the axis is that of the result.
    """
    value = node.inputs[index]
    shapes = [static_shape(v) if v is not None else None for v in (value, node.outputs[0])]
    source, result = shapes[::-1] if back else shapes
    if source is None or result is None or len(source) <= axis or source[axis] != channels:
        return None
    if node.op_type in RESHAPING:
        inner = source[axis + 1 :]
        found = [k for k, size in enumerate(result) if size == channels and _same_size(result[k + 1 :], inner)]
        return (found[0], len(result)) if found else None
    if node.op_type == "Transpose":
        order = list(attribute(node, "perm", range(len(source))[::-1]))
        return (order[axis] if back else order.index(axis)), len(result)
    if len(result) != len(source) or result[axis] != channels:
        return None
    return (axis, len(result)) if _leaves(node, axis, len(source)) else None


def _leaves(node: ir.Node, axis: int, rank: int) -> bool:
    """True if an operator that keeps the size of an axis keeps what lies where along it."""
    if node.op_type in ("MaxPool", "AveragePool"):
        return axis < 2
    if node.op_type != "Pad":
        return True
    named = len(node.inputs) > 3 and node.inputs[3] is not None
    amounts, axes = integers(node, 1, "pads"), integers(node, 3) if named else list(range(rank))
    if amounts is None or axes is None:
        return False
    return not any(any(amounts[k :: len(axes)]) for k, a in enumerate(axes) if a % rank == axis)


def _same_size(left: tuple[int | None, ...], right: tuple[int | None, ...]) -> bool:
    """True if as many elements lie in both; unknown sizes are not compared."""
    if None in left or None in right:
        return False
    return math.prod(d or 0 for d in left) == math.prod(d or 0 for d in right)


def _counts_padding(node: ir.Node) -> bool:
    if not attribute(node, "count_include_pad", 0):
        return False
    return any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
