"""Concat, Split, Slice, Gather, Pad: values move, and their classes move with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import ClassBuilder, Ids, compress, widen
from equiquant.graph import query

__all__ = ["concat", "gather", "pad", "slice_", "split"]


def concat(builder: ClassBuilder, node: ir.Node) -> None:
    """Operands side by side; their classes may differ along every axis."""
    rank = query.rank(node.outputs[0])
    shapes = [query.static_shape(v) for v in node.inputs if v is not None]
    known = [s for s in shapes if s is not None]
    if rank is None or len(known) != len(shapes):
        return builder.refuse(node, "an operand's rank is unknown")
    axis = int(query.attribute(node, "axis", 0)) % rank
    parts = [widen(builder.ids(v), rank) for v in node.inputs]
    if all(builder.is_fixed(p) for p in parts):
        return builder.set(node.outputs[0], np.array(parts[0].reshape(-1)[0]))
    sizes = [s[axis] for s in known]
    others = np.broadcast_shapes((1,) * rank, *((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts if p.ndim))
    if None not in sizes:
        full = [(*others[:axis], size, *others[axis + 1 :]) for size in sizes]
        whole = np.concatenate([np.broadcast_to(p, s) for p, s in zip(parts, full, strict=True)], axis=axis)
        return builder.set(node.outputs[0], compress(whole))
    if any(p.ndim and p.shape[axis] != 1 for p in parts):
        return builder.refuse(node, "an operand's size along the axis is unknown")
    for part in parts[1:]:
        builder.unite(np.broadcast_to(parts[0], others), part)
    return builder.set(node.outputs[0], np.array(np.broadcast_to(parts[0], others)))


def split(builder: ClassBuilder, node: ir.Node) -> None:
    """Pieces along one axis, of the sizes asked for or those the outputs have."""
    rank = query.rank(node.inputs[0]) if node.inputs[0] is not None else None
    if rank is None:
        return builder.refuse(node, "its input's rank is unknown")
    axis = int(query.attribute(node, "axis", 0)) % rank
    ids = builder.ids(node.inputs[0])
    if ids.ndim == 0 or ids.shape[axis] == 1:
        for output in node.outputs:
            builder.set(output, ids)
        return None
    shapes = [query.static_shape(o) for o in node.outputs]
    static = [s[axis] if s is not None else None for s in shapes]
    sizes: list[int] | list[int | None] = query.integers(node, 1, "split") or static
    known = [s for s in sizes if s is not None]
    if len(known) != len(sizes) or sum(known) != ids.shape[axis]:
        return builder.refuse(node, "the sizes of its pieces are unknown")
    for output, piece in zip(node.outputs, np.split(ids, np.cumsum(known)[:-1], axis=axis), strict=True):
        builder.set(output, piece)
    return None


def slice_(builder: ClassBuilder, node: ir.Node) -> None:
    """Slice with constant starts, ends, axes and steps (attributes before opset 10)."""
    ids = builder.ids(node.inputs[0])
    rank = query.rank(node.inputs[0]) if node.inputs[0] is not None else None
    if rank is None:
        return builder.refuse(node, "its input's rank is unknown")
    if ids.ndim == 0:
        return builder.set(node.outputs[0], ids)
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (query.integers(node, i, name) for i, name in enumerate(names, 1))
    if axes is None and starts is not None and not (len(node.inputs) > 3 and node.inputs[3] is not None):
        axes = list(range(len(starts)))
    if axes is None:
        return builder.refuse(node, "its axes are not constants")
    index: list[slice] = [slice(None)] * rank
    for k, axis in enumerate(a % rank for a in axes):
        if ids.shape[axis] == 1:
            continue
        if starts is None or ends is None or (steps is None and len(node.inputs) > 4):
            return builder.refuse(node, "it cuts channels at positions that are not constants")
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
    if rank is None or index_rank is None:
        return builder.refuse(node, "its shapes are unknown")
    axis = int(query.attribute(node, "axis", 0)) % rank
    ids = builder.ids(source)
    if ids.ndim == 0:
        return builder.set(node.outputs[0], ids)
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
    if source is None or builder.is_fixed(ids):
        return builder.set(node.outputs[0], ids.reshape(-1)[:1].reshape(()))
    if not query.pads_own_values(node):
        return builder.refuse(node, "it pads with a value that is not zero")
    if ids.ndim == 0:
        return builder.set(node.outputs[0], ids)
    amounts = query.integers(node, 1, "pads")
    if amounts is None:
        return builder.refuse(node, "its amounts are not constants")
    axes = query.integers(node, 3) if len(node.inputs) > 3 and node.inputs[3] is not None else list(range(ids.ndim))
    if axes is None:
        return builder.refuse(node, "its axes are not constants")
    mode = query.attribute(node, "mode", "constant")
    for k, axis in enumerate(a % ids.ndim for a in axes):
        before, after = amounts[k], amounts[k + len(axes)]
        if (before, after) == (0, 0) or ids.shape[axis] == 1:
            continue  # zeros beside values of one class take that class
        ids = _pad_axis(builder, ids, axis, (before, after), mode)
    return builder.set(node.outputs[0], ids)


def _pad_axis(builder: ClassBuilder, ids: Ids, axis: int, amounts: tuple[int, int], mode: str) -> Ids:
    """Pad ids along one axis; zeros get classes of their own, negative amounts crop."""
    before, after = amounts
    crop = slice(max(-before, 0), ids.shape[axis] - max(-after, 0))
    ids = ids[(slice(None),) * axis + (crop,)]
    width = [(0, 0)] * ids.ndim
    width[axis] = (max(before, 0), max(after, 0))
    if mode != "constant":
        padding: dict[str, Any] = {"mode": mode}  # reflect, edge and wrap mean the same in numpy
        return np.asarray(np.pad(ids, width, **padding))
    head, tail = (builder.new((*ids.shape[:axis], amount, *ids.shape[axis + 1 :])) for amount in width[axis])
    return np.concatenate([head, ids, tail], axis=axis)
