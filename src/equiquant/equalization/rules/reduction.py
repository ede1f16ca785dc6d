"""Pools, reductions and resizing along other axes: homogeneous, so channels keep their class.

Where a window or a reduction mixes values of different classes along an axis, those classes become one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.equalization.builder import ClassBuilder
from equiquant.graph import query

__all__ = ["pool", "reduce", "resize"]


def pool(builder: ClassBuilder, node: ir.Node) -> None:
    """Max, average and Lp pools, global or windowed: spatial axes are mixed; indices of a maximum do not change."""
    ids = builder.collapse(builder.ids(node.inputs[0]), (0, 1))
    builder.set(node.outputs[0], ids)
    for indices in node.outputs[1:]:
        builder.set(indices, builder.fixed(node, "indices"))


def reduce(builder: ClassBuilder, node: ir.Node) -> None:
    """ReduceMean, Sum, Max, Min, L1, L2 over axes given as an attribute or a constant input."""
    source = node.inputs[0]
    rank = query.rank(source) if source is not None else None
    axes = query.attribute(node, "axes", None)
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        found = query.constant(node.inputs[1])
        if found is None:
            return builder.refuse(node, "its axes are not constants")
        axes = found.reshape(-1).tolist()
    if rank is None:
        return builder.refuse(node, "its input's rank is unknown")
    ids = builder.ids(source)
    if not axes and query.attribute(node, "noop_with_empty_axes", 0):
        return builder.set(node.outputs[0], ids)
    reduced = {int(a) % rank for a in axes} if axes else set(range(rank))
    if ids.ndim == 0:
        return builder.set(node.outputs[0], ids)
    ids = builder.collapse(ids, tuple(a for a in range(rank) if a not in reduced))
    if not query.attribute(node, "keepdims", 1):
        ids = np.squeeze(ids, axis=tuple(reduced))
    return builder.set(node.outputs[0], ids)


def resize(builder: ClassBuilder, node: ir.Node) -> None:
    """Resize and Upsample interpolate: linear along the axes they change, and those axes are mixed."""
    source, target = node.inputs[0], node.outputs[0]
    before = query.static_shape(source) if source is not None else None
    after = query.static_shape(target)
    ids = builder.ids(source)
    if before is None or after is None:
        return builder.refuse(node, "its shapes are unknown")
    if query.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return builder.refuse(node, "tf_crop_and_resize fills with a constant value")
    scales = _scales(node, before, after)
    keep = tuple(axis for axis in range(ids.ndim) if scales[axis] == 1.0)
    return builder.set(target, builder.collapse(ids, keep))


def _scales(node: ir.Node, before: tuple[int | None, ...], after: tuple[int | None, ...]) -> list[float]:
    """Return the scale of each axis, from the constant operand where there is one, else from the static shapes."""
    position = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    if len(node.inputs) > position and not query.attribute(node, "axes", None):
        given = query.constant(node.inputs[position])
        if given is not None and given.size == len(before):
            return [float(s) for s in given]
    given = query.attribute(node, "scales", None)
    if given is not None and len(given) == len(before):
        return [float(s) for s in given]
    ratio: list[float] = []
    for axis, (a, b) in enumerate(zip(before, after, strict=True)):
        if a is None or b is None:
            ratio.append(1.0 if axis == 0 else 0.0)
        else:
            ratio.append(b / a)
    return ratio
