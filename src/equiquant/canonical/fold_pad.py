"""Pad before a MaxPool, with −∞ or what is no larger than any value: the pool's own padding.

A pool leaves out what it pads, which is what such a number does to a maximum. As a tensor of its own the padded value
could not be quantized: its range would be that of the number, −10⁹ or without an end.
Source: ONNX operator specification, MaxPool and Pad.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.bounds import value_bounds
from equiquant.graph.edit import Names
from equiquant.graph.query import attribute, constant, filled_with, rank, static_shape
from equiquant.graph.windows import window

__all__ = ["FoldPad", "PaddedPool"]

LOWEST = {ir.DataType.FLOAT16: float(np.finfo(np.float16).min), ir.DataType.FLOAT: float(np.finfo(np.float32).min)}


@dataclass(frozen=True, eq=False)
class PaddedPool:
    """A MaxPool and the Pad before it."""

    pad: ir.Node
    pool: ir.Node


class FoldPad(Rule[PaddedPool, tuple[ir.Value, list[int]]]):
    """MaxPool of what a Pad made with the lowest number, or with one that nothing it pads is below."""

    name = "fold_pad"
    op_types = frozenset({"MaxPool"})

    def pattern(self, node: ir.Node) -> PaddedPool | None:
        """Match a Pad that fills in one number."""
        before = node.inputs[0]
        pad = None if before is None else before.producer()
        if pad is None or pad.op_type != "Pad" or pad.domain != "" or (fill := filled_with(pad)) is None:
            return None
        source = pad.inputs[0]
        if source is None or source.dtype is None:
            return None
        least = max(LOWEST.get(source.dtype, -math.inf), value_bounds(source)[0])
        return PaddedPool(pad, node) if fill <= least else None

    def check(self, match: PaddedPool) -> tuple[ir.Value, list[int]]:
        """Return what the Pad reads, and the pool's new pads; refuse where the pool cannot pad as much."""
        source, pool = match.pad.inputs[0], match.pool
        dimensions = None if source is None else rank(source)
        given = constant(match.pad.inputs[1])
        if source is None or dimensions is None or given is None or len(match.pad.inputs) > 3:
            refuse("its rank, pads or axes are not known")
        kernel = np.asarray(attribute(pool, "kernel_shape", []), np.int64)
        pads = given.astype(np.int64).reshape(2, dimensions)
        if pads[:, :2].any() or (pads < 0).any() or kernel.size != dimensions - 2:
            refuse("the Pad crops, or pads the batch or the channels")
        if len(pool.outputs) > 1:
            refuse("the pool also returns indices, which count what is padded")
        total = pads[:, 2:] + _own_pads(match, kernel.size)
        if (total >= kernel).any():
            refuse("the padding is as wide as the pool's window")
        _check_dilations(pool, static_shape(source))
        strides = np.asarray(attribute(pool, "strides", [1] * kernel.size), np.int64)
        automatic = attribute(pool, "auto_pad", "NOTSET") != "NOTSET"
        if attribute(pool, "ceil_mode", 0) and (automatic or (total[1] + strides > kernel).any()):
            refuse("the pool rounds its size up and would leave out a window that lies in the padding")
        return source, total.reshape(-1).tolist()

    def rewrite(self, match: PaddedPool, plan: tuple[ir.Value, list[int]], names: Names) -> str:
        """Let the pool read and pad the tensor itself; the Pad goes when nothing else reads it."""
        source, pads = plan
        match.pool.replace_input_with(0, source)
        match.pool.attributes.pop("auto_pad", None)
        match.pool.attributes.add(ir.AttrInt64s("pads", pads))
        return "pads by itself"


def _check_dilations(pool: ir.Node, shape: tuple[int | None, ...] | None) -> None:
    """Refuse a window whose taps may all lie beside what is there: they step over what is shorter than their distance.

    No window lies beside it as a whole, for the padding is narrower than the window.
    """
    for size, dilation in zip((shape or ())[2:], attribute(pool, "dilations", ()), strict=False):
        if dilation > 1 and (size is None or size < dilation):
            refuse("the taps of its window are as far apart as what it reads is wide, or this is not known")


def _own_pads(match: PaddedPool, axes: int) -> npt.NDArray[np.int64]:
    """Return what the pool pads already, (2, axes): where it chooses that by the size, what it chooses."""
    pool, auto = match.pool, attribute(match.pool, "auto_pad", "NOTSET")
    if not auto.startswith("SAME"):
        given = attribute(pool, "pads", [0] * (2 * axes)) if auto == "NOTSET" else [0] * (2 * axes)
        return np.asarray(given, np.int64).reshape(2, axes)
    shape = static_shape(match.pad.outputs[0])
    if shape is None or None in shape[2:]:
        refuse("the pool chooses its padding by a size that is not known")
    sizes, strides = [size for size in shape[2:] if size is not None], attribute(pool, "strides", [1] * axes)
    outputs = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    found = window(pool, attribute(pool, "kernel_shape", []), sizes, outputs)
    if any(d > 1 for d in found.dilations) or any(found.left_out):
        refuse("onnxruntime pads dilated windows and strides beyond the window in a way of its own")
    return np.asarray(found.pads, np.int64).reshape(2, axes)
