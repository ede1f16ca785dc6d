"""Pad with −∞ before a MaxPool: the pool's own padding.

A pool leaves out what it pads, which is what −∞ does to a maximum. As a tensor of its own the padded value could not be
quantized: its range has no end. Source: ONNX operator specification, MaxPool and Pad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names
from equiquant.graph.query import attribute, constant, rank

__all__ = ["FoldPad", "PaddedPool"]


@dataclass(frozen=True, eq=False)
class PaddedPool:
    """A MaxPool and the Pad before it."""

    pad: ir.Node
    pool: ir.Node


class FoldPad(Rule[PaddedPool, tuple[ir.Value, list[int]]]):
    """MaxPool of what a Pad made with −∞, or with the lowest finite number."""

    name = "fold_pad"
    op_types = frozenset({"MaxPool"})

    def pattern(self, node: ir.Node) -> PaddedPool | None:
        """Match a Pad with the least number there is."""
        before = node.inputs[0]
        pad = None if before is None else before.producer()
        if pad is None or pad.op_type != "Pad" or attribute(pad, "mode", "constant") != "constant":
            return None
        fill = constant(pad.inputs[2]) if len(pad.inputs) > 2 else None
        return PaddedPool(pad, node) if fill is not None and _is_least(fill) else None

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
        if attribute(pool, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attribute(pool, "ceil_mode", 0):
            refuse("the pool chooses its padding by itself")
        if len(pool.outputs) > 1:
            refuse("the pool also returns indices, which count what is padded")
        total = pads[:, 2:] + np.asarray(attribute(pool, "pads", [0] * (2 * kernel.size)), np.int64).reshape(2, -1)
        if (total >= kernel).any():
            refuse("the padding is as wide as the pool's window")
        return source, total.reshape(-1).tolist()

    def rewrite(self, match: PaddedPool, plan: tuple[ir.Value, list[int]], names: Names) -> str:
        """Let the pool read and pad the tensor itself; the Pad goes when nothing else reads it."""
        source, pads = plan
        match.pool.replace_input_with(0, source)
        match.pool.attributes.pop("auto_pad", None)
        match.pool.attributes.add(ir.AttrInt64s("pads", pads))
        return "pads by itself"


def _is_least(fill: npt.NDArray[Any]) -> bool:
    """True for −∞ and for the lowest finite number of the type."""
    number = float(fill.astype(np.float64).reshape(-1)[0])
    return number == -np.inf or (fill.dtype.kind == "f" and number <= float(np.finfo(fill.dtype).min))
