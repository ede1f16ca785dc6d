"""Transpose, Reshape and their kin: run the op on the class ids themselves.

A dynamic dimension is tried at two sizes; if the ids come out the same, they hold for every size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import ClassBuilder, Ids, compress, widen
from equiquant.graph import query

__all__ = ["depth_to_space", "expand", "reshape", "space_to_depth", "tile", "transpose"]

LARGEST = 50_000_000  # ids; a larger tensor with channels spread over several axes is refused
TRIALS = (2, 3)  # sizes a dynamic dimension is tried at


def transpose(builder: ClassBuilder, node: ir.Node) -> None:
    """Axes are permuted, so are the axes of the ids."""
    ids = builder.ids(node.inputs[0])
    perm = query.attribute(node, "perm", None)
    builder.set(node.outputs[0], np.transpose(ids, perm) if ids.ndim else ids)


def reshape(builder: ClassBuilder, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same values in the same order."""

    def act(ids: Ids, size: int) -> Ids:
        return ids.reshape(_target(node, ids.shape))

    _run(builder, node, act)


def depth_to_space(builder: ClassBuilder, node: ir.Node) -> None:
    """(N, C·b², H, W) to (N, C, H·b, W·b); channels that meet in one output channel become one class."""
    block = int(query.attribute(node, "blocksize", 1))
    column_first = query.attribute(node, "mode", "DCR") == "CRD"
    ids = builder.ids(node.inputs[0])
    if ids.ndim == 0 or ids.shape[1] == 1:
        return builder.set(node.outputs[0], builder.collapse(ids, (0, 1)))
    vector = builder.collapse(ids, (1,)).reshape(-1)
    shape = (-1, block * block) if column_first else (block * block, -1)
    meeting = vector.reshape(shape) if column_first else vector.reshape(shape).T
    builder.unite(meeting, meeting[:, :1])
    return builder.set(node.outputs[0], meeting[:, 0].reshape(1, -1, 1, 1))


def space_to_depth(builder: ClassBuilder, node: ir.Node) -> None:
    """(N, C, H·b, W·b) to (N, C·b², H, W): every channel becomes b² channels of its class."""
    block = int(query.attribute(node, "blocksize", 1))
    ids = builder.collapse(builder.ids(node.inputs[0]), (1,))
    if ids.ndim == 0 or ids.shape[1] == 1:
        return builder.set(node.outputs[0], ids)
    return builder.set(node.outputs[0], np.tile(ids, (1, block * block, 1, 1)))


def expand(builder: ClassBuilder, node: ir.Node) -> None:
    """Expand broadcasts: ids broadcast too."""
    rank = query.rank(node.outputs[0])
    ids = builder.ids(node.inputs[0])
    if rank is None or (node.inputs[0] is not None and query.rank(node.inputs[0]) is None):
        return builder.refuse(node, "its shapes are unknown")
    return builder.set(node.outputs[0], widen(ids, rank))


def tile(builder: ClassBuilder, node: ir.Node) -> None:
    """Tile repeats: so do the ids, along axes where they differ."""
    ids = builder.ids(node.inputs[0])
    repeats = query.constant(node.inputs[1])
    if ids.ndim == 0:
        return builder.set(node.outputs[0], ids)
    if repeats is None:
        return builder.refuse(node, "its repeats are not constants")
    counts = [int(r) if size > 1 else 1 for r, size in zip(repeats.reshape(-1), ids.shape, strict=True)]
    return builder.set(node.outputs[0], np.tile(ids, counts))


def _run(builder: ClassBuilder, node: ir.Node, act: Callable[[Ids, int], Ids]) -> None:
    source, target = node.inputs[0], node.outputs[0]
    ids = builder.ids(source)
    if ids.size == 1:
        return builder.set(target, ids.reshape(()))
    shape = query.static_shape(source) if source is not None else None
    if shape is None:
        return builder.refuse(node, "its input's shape is unknown")
    tried: list[Ids] = []
    for size in TRIALS:
        full = tuple(size if d is None else d for d in shape)
        if np.prod(full, dtype=np.float64) > LARGEST:
            return builder.refuse(node, "the tensor is too large to follow its channels through")
        try:
            tried.append(compress(act(np.broadcast_to(ids, full), size)))
        except ValueError:
            return builder.refuse(node, "its target shape depends on dynamic sizes; fixed input shapes would tell it")
    if tried[0].shape != tried[1].shape or not np.array_equal(tried[0], tried[1]):
        return builder.refuse(node, "channels mix with a dimension of unknown size")
    return builder.set(target, tried[0])


def _target(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the op's output shape for one input shape; ValueError if it depends on computed values."""
    if node.op_type == "Flatten":
        axis = int(query.attribute(node, "axis", 1))
        axis += len(shape) if axis < 0 else 0
        return int(np.prod(shape[:axis], dtype=np.int64)), int(np.prod(shape[axis:], dtype=np.int64))
    if node.op_type in ("Squeeze", "Unsqueeze"):
        return _without_ones(node, shape)
    wanted = query.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if wanted is None:
        given = query.attribute(node, "shape", None)
        static = query.static_shape(node.outputs[0])
        if given is None and (static is None or sum(d is None for d in static) > 1):
            raise ValueError("computed shape")
        wanted = np.array(given if given is not None else [-1 if d is None else d for d in static or ()])
    keep_zero = bool(query.attribute(node, "allowzero", 0))
    return tuple(shape[k] if d == 0 and not keep_zero else int(d) for k, d in enumerate(wanted.reshape(-1).tolist()))


def _without_ones(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    given = query.attribute(node, "axes", None)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = query.constant(node.inputs[1])
        if constant is None:
            raise ValueError("computed axes")
        given = constant.reshape(-1).tolist()
    if node.op_type == "Unsqueeze":
        rank = len(shape) + len(given or ())
        places = {int(a) % rank for a in given or ()}
        rest = iter(shape)
        return tuple(1 if axis in places else next(rest) for axis in range(rank))
    if given is None:
        if None in (query.static_shape(node.inputs[0]) or (None,) if node.inputs[0] is not None else (None,)):
            raise ValueError("a dimension of unknown size may be 1")
        return tuple(d for d in shape if d != 1)
    drop = {int(a) % len(shape) for a in given}
    return tuple(d for axis, d in enumerate(shape) if axis not in drop)
