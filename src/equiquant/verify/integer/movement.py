"""Operators that only move data, on arrays of integers.

Source: ONNX operator specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import attribute
from equiquant.verify.integer.exact import Exact, Unsupported, align

__all__ = ["concat", "move", "pad", "split"]

Array = npt.NDArray[Any]


def move(node: ir.Node, x: Exact, *parameters: Array | None) -> Exact:
    """Return Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Slice, Gather, Expand, Tile, and their like."""
    result = _MOVES[node.op_type](node, x.codes, *parameters)
    return x.moved(np.asarray(result))


def _reshape(node: ir.Node, x: Array, shape: Array) -> Array:
    kept = shape.tolist()
    if not attribute(node, "allowzero", 0):
        kept = [x.shape[i] if size == 0 else size for i, size in enumerate(kept)]
    return x.reshape(kept)


def _flatten(node: ir.Node, x: Array) -> Array:
    axis = int(attribute(node, "axis", 1))
    axis += x.ndim if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _transpose(node: ir.Node, x: Array) -> Array:
    return x.transpose(attribute(node, "perm", None))


def _axes(node: ir.Node, axes: Array | None) -> tuple[int, ...] | None:
    given = attribute(node, "axes", None) if axes is None else axes.tolist()
    return None if given is None else tuple(int(a) for a in given)


def _squeeze(node: ir.Node, x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, _axes(node, axes))


def _unsqueeze(node: ir.Node, x: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(x, _axes(node, axes) or ())


def _slice(node: ir.Node, x: Array, *given: Array | None) -> Array:
    parts = [None if g is None else g.tolist() for g in given] + [None] * 4
    starts = parts[0] if parts[0] is not None else list(attribute(node, "starts", []))
    ends = parts[1] if parts[1] is not None else list(attribute(node, "ends", []))
    axes = parts[2] if parts[2] is not None else list(attribute(node, "axes", range(len(starts))))
    steps = parts[3] if parts[3] is not None else [1] * len(starts)
    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        # numpy reads a stop of -1 as the last place; ONNX, going backwards, may mean one before the first
        stop = None if step < 0 and end < -size else end
        where[axis] = slice(max(start, -size) if step < 0 else start, stop, step)
    return x[tuple(where)]


def _gather(node: ir.Node, x: Array, indices: Array) -> Array:
    return np.take(x, indices, axis=int(attribute(node, "axis", 0)))


def _expand(node: ir.Node, x: Array, shape: Array) -> Array:
    expanded: Array = x * np.ones(shape.tolist(), dtype=x.dtype)
    return expanded


def _tile(node: ir.Node, x: Array, repeats: Array) -> Array:
    return np.tile(x, repeats.tolist())


def _depth_to_space(node: ir.Node, x: Array) -> Array:
    block = int(attribute(node, "blocksize", 1))
    n, c, h, w = x.shape
    if attribute(node, "mode", "DCR") == "DCR":
        parts = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(node: ir.Node, x: Array) -> Array:
    block = int(attribute(node, "blocksize", 1))
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


def _resize(
    node: ir.Node, x: Array, roi: Array | None = None, scales: Array | None = None, sizes: Array | None = None
) -> Array:
    if attribute(node, "mode", "nearest") != "nearest" or attribute(node, "axes", None) is not None:
        raise Unsupported("it interpolates, or resizes some axes only")
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("it keeps the aspect ratio")
    for axis, size in enumerate(x.shape):
        if scales is not None and scales.size:
            factor = np.float32(scales[axis])
            length = int(np.floor(np.float32(size) * factor))
        elif sizes is not None:
            length = int(sizes[axis])
            factor = np.float32(length) / np.float32(size)
        else:
            raise Unsupported("its scales are not known")
        if length != size or factor != 1:
            x = np.take(x, _nearest(node, size, length, factor), axis=axis)
    return x


def _nearest(node: ir.Node, size: int, length: int, factor: np.float32) -> Array:
    """Return which place of an axis each place of the resized axis comes from, in float32 as the scales are."""
    place = np.arange(length, dtype=np.float32)
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        source = place / factor
    elif mode == "align_corners":
        source = place * np.float32(size - 1) / np.float32(max(length - 1, 1))
    elif mode == "half_pixel" or (mode == "pytorch_half_pixel" and length > 1):
        source = (place + np.float32(0.5)) / factor - np.float32(0.5)
    elif mode == "pytorch_half_pixel":
        source = place * 0
    else:
        raise Unsupported(f"its coordinates are '{mode}'")
    rounding = {
        "round_prefer_floor": np.ceil(source - 0.5),
        "round_prefer_ceil": np.floor(source + 0.5),
        "floor": np.floor(source),
        "ceil": np.ceil(source),
    }[attribute(node, "nearest_mode", "round_prefer_floor")]
    places: Array = np.clip(rounding, 0, size - 1).astype(np.int64)
    return places


def _same(node: ir.Node, x: Array, *_: Array | None) -> Array:
    return x


_MOVES: dict[str, Callable[..., Array]] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Resize": _resize,
    "Identity": _same,
    "Dropout": _same,
}


def concat(node: ir.Node, *parts: Exact) -> Exact:
    """Return the parts one after the other."""
    codes, exponent, divisor = align(*parts)
    if not isinstance(divisor, int):
        raise Unsupported("it joins means with different numbers of values")
    same = all(p.same_in_float32 for p in parts)
    return Exact(np.concatenate(codes, axis=int(attribute(node, "axis", 0))), exponent, divisor, same)


def split(node: ir.Node, x: Exact, sizes: Array | None = None) -> list[Exact]:
    """Return the pieces."""
    axis, count = int(attribute(node, "axis", 0)), len(node.outputs)
    length = x.codes.shape[axis]
    given = attribute(node, "split", None) if sizes is None else sizes.tolist()
    chunk = -(-length // count)
    ends = np.cumsum(given)[:-1] if given is not None else [chunk * (i + 1) for i in range(count - 1)]
    return [x.moved(piece) for piece in np.split(x.codes, ends, axis=axis)]


def pad(
    node: ir.Node, x: Exact, pads: Array | None = None, value: Exact | None = None, axes: Array | None = None
) -> Exact:
    """Return x with a border: of zeros or another constant, mirrored, or repeated."""
    widths = attribute(node, "pads", []) if pads is None else pads.tolist()
    rank = x.codes.ndim
    over = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    border = [(0, 0)] * rank
    for i, axis in enumerate(over):
        border[axis] = (widths[i], widths[len(over) + i])
    if any(width < 0 for pair in border for width in pair):
        raise Unsupported("it cuts off instead of padding")
    mode = attribute(node, "mode", "constant")
    if mode != "constant":
        return x.moved(np.pad(x.codes, border, mode=mode))
    if value is None:
        return x.moved(np.pad(x.codes, border))
    (codes, fill), exponent, divisor = align(x, value)
    padded = np.pad(codes, border, constant_values=int(fill.reshape(-1)[0]))
    return Exact(padded, exponent, divisor, x.same_in_float32)
