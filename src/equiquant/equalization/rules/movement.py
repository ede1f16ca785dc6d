"""Concat, Split, Slice, Gather, Pad: values move, and their classes move with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import PINNED, ClassBuilder, Ids
from equiquant.equalization.rules.linear import refuse
from equiquant.graph import query

__all__ = ["along", "concat", "gather", "pad", "slice_", "split"]


def along(builder: ClassBuilder, value: ir.Value | None, axis: int) -> Ids | None:
    """Return a value's ids with their full size along `axis`; None if that size is unknown."""
    ids = builder.ids(value)
    shape = query.static_shape(value) if value is not None else None
    if shape is None:
        return None
    size = shape[axis]
    if size is None:
        return None
    ids = ids.reshape((1,) * (len(shape) - ids.ndim) + ids.shape)
    target = list(ids.shape)
    target[axis] = size
    return np.broadcast_to(ids, target)


def concat(builder: ClassBuilder, node: ir.Node) -> None:
    """Operands side by side; their classes may differ along every axis."""
    rank = query.rank(node.outputs[0])
    values = list(node.inputs)
    axis = int(query.attribute(node, "axis", 0))
    if rank is None or any(query.rank(v) is None for v in values if v is not None):
        return refuse(builder, node, "an operand's rank is unknown")
    axis %= rank
    whole = [builder.ids(v) for v in values]
    if all(not ids.any() for ids in whole):
        return builder.set(node.outputs[0], PINNED)
    parts = [along(builder, v, axis) for v in values]
    known = [p for p in parts if p is not None]
    if len(known) != len(parts):
        return refuse(builder, node, "an operand's size along the axis is unknown")
    others = np.broadcast_shapes(*(tuple(1 if a == axis else s for a, s in enumerate(p.shape)) for p in known))
    spread = [np.broadcast_to(p, tuple(p.shape[a] if a == axis else s for a, s in enumerate(others))) for p in known]
    return builder.set(node.outputs[0], np.concatenate(spread, axis=axis))


def split(builder: ClassBuilder, node: ir.Node) -> None:
    """Pieces along one axis, of the sizes the outputs have."""
    rank = query.rank(node.inputs[0]) if node.inputs[0] is not None else None
    if rank is None:
        return refuse(builder, node, "its input's rank is unknown")
    axis = int(query.attribute(node, "axis", 0)) % rank
    ids = builder.ids(node.inputs[0])
    if ids.ndim == 0 or ids.shape[axis] == 1:
        for output in node.outputs:
            builder.set(output, ids)
        return None
    shapes = [query.static_shape(o) for o in node.outputs]
    sizes = [s[axis] if s is not None else None for s in shapes]
    known = [s for s in sizes if s is not None]
    if len(known) != len(sizes) or sum(known) != ids.shape[axis]:
        return refuse(builder, node, "the sizes of its pieces are unknown")
    for output, piece in zip(node.outputs, np.split(ids, np.cumsum(known)[:-1], axis=axis), strict=True):
        builder.set(output, piece)
    return None


def slice_(builder: ClassBuilder, node: ir.Node) -> None:
    """Slice with constant starts, ends, axes and steps (attributes before opset 10)."""
    ids = builder.ids(node.inputs[0])
    rank = query.rank(node.inputs[0]) if node.inputs[0] is not None else None
    if rank is None:
        return refuse(builder, node, "its input's rank is unknown")
    if ids.ndim == 0:
        return builder.set(node.outputs[0], PINNED)
    starts, ends, axes, steps = (_operand(node, i, n) for i, n in enumerate(("starts", "ends", "axes", "steps"), 1))
    if axes is None and starts is not None and not (len(node.inputs) > 3 and node.inputs[3] is not None):
        axes = list(range(len(starts)))
    if axes is None:
        return refuse(builder, node, "its axes are not constants")
    index: list[slice] = [slice(None)] * rank
    for k, axis in enumerate(a % rank for a in axes):
        if ids.shape[axis] == 1:
            continue
        if starts is None or ends is None or (steps is None and len(node.inputs) > 4):
            return refuse(builder, node, "it cuts channels at positions that are not constants")
        step = steps[k] if steps is not None else 1
        stop: int | None = ends[k]
        if step < 0 and ends[k] < -ids.shape[axis]:
            stop = None
        index[axis] = slice(starts[k], stop, step)
    return builder.set(node.outputs[0], ids[tuple(index)])


def gather(builder: ClassBuilder, node: ir.Node) -> None:
    """Gather picks classes along its axis; if the indices are computed, the axis becomes one class."""
    source, indices = node.inputs
    rank = query.rank(source) if source is not None else None
    index_rank = query.rank(indices) if indices is not None else None
    if query.constant(source) is not None:
        return builder.set(node.outputs[0], PINNED)
    if rank is None or index_rank is None:
        return refuse(builder, node, "its shapes are unknown")
    axis = int(query.attribute(node, "axis", 0)) % rank
    ids = builder.ids(source)
    if ids.ndim == 0:
        return builder.set(node.outputs[0], PINNED)
    picks = query.constant(indices)
    if ids.shape[axis] > 1 and picks is None:
        ids = builder.collapse(ids, tuple(a for a in range(rank) if a != axis))
    if ids.shape[axis] == 1:
        picks = np.zeros((1,) * index_rank, dtype=np.int64)
    return builder.set(node.outputs[0], np.take(ids, np.asarray(picks), axis=axis))


def pad(builder: ClassBuilder, node: ir.Node) -> None:
    """Zeros have every scale; reflect, edge and wrap repeat values of one axis; another constant is refused."""
    source = node.inputs[0]
    ids = builder.ids(source)
    if source is None or ids.ndim == 0:
        return builder.set(node.outputs[0], PINNED)
    mode = query.attribute(node, "mode", "constant")
    if mode == "constant" and not _pads_zero(node):
        return refuse(builder, node, "it pads with a value that is not zero")
    amounts = _operand(node, 1, "pads")
    if amounts is None:
        return refuse(builder, node, "its amounts are not constants")
    axes = _operand(node, 3, "") if len(node.inputs) > 3 and node.inputs[3] is not None else list(range(ids.ndim))
    if axes is None:
        return refuse(builder, node, "its axes are not constants")
    for k, axis in enumerate(a % ids.ndim for a in axes):
        before, after = amounts[k], amounts[k + len(axes)]
        if (before, after) == (0, 0) or (ids.shape[axis] == 1 and mode != "constant"):
            continue
        if ids.shape[axis] == 1 and (query.static_shape(source) or ())[axis : axis + 1] != (1,):
            continue  # zeros beside values of one class: they take that class
        ids = _pad_axis(builder, ids, axis, (before, after), mode)
    return builder.set(node.outputs[0], ids)


def _pad_axis(builder: ClassBuilder, ids: Ids, axis: int, amounts: tuple[int, int], mode: str) -> Ids:
    """Pad ids along one axis; new zero channels get classes of their own, negative amounts crop."""
    before, after = amounts
    crop = slice(max(-before, 0), ids.shape[axis] - max(-after, 0))
    ids = ids[(slice(None),) * axis + (crop,)]
    width = [(0, 0)] * ids.ndim
    width[axis] = (max(before, 0), max(after, 0))
    if mode != "constant":
        padding: dict[str, Any] = {"mode": {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode]}
        return np.asarray(np.pad(ids, width, **padding))
    edges = []
    for amount in width[axis]:
        shape = list(ids.shape)
        shape[axis] = amount
        new = builder.fresh(amount, ids.ndim, axis) if amount else np.zeros(shape, dtype=np.int64)
        edges.append(np.broadcast_to(new, shape))
    return np.concatenate([edges[0], ids, edges[1]], axis=axis)


def _pads_zero(node: ir.Node) -> bool:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        value = query.constant(node.inputs[2])
        return value is not None and not value.any()
    return float(query.attribute(node, "value", 0.0)) == 0.0


def _operand(node: ir.Node, index: int, name: str) -> list[int] | None:
    """Return an integer list given as an attribute (old opsets) or a constant input."""
    given = query.attribute(node, name, None) if name else None
    if given is None and index < len(node.inputs):
        given = query.constant(node.inputs[index])
    return None if given is None else [int(v) for v in np.asarray(given).reshape(-1)]
