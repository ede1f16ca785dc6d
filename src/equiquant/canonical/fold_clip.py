"""Relu, Clip, Min and Max with one number, one after another: a single Clip, or a Relu.

Exporters write ReLU6 as Min(Max(x, 0), 6), some with a Relu before it. As one Clip it is the ReLU6 that equalization
knows, it fuses with the layer before it, and runs on integers. With clamp(x; a, b) = min(max(x, a), b) and c ≤ d

    clamp(clamp(x; a, b); c, d) = clamp(x; clamp(a; c, d), clamp(b; c, d))

for a ≤ b. Source: ONNX operator specification, Clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, add_initializer
from equiquant.graph.query import clip_ends, constant, is_float, label, rank, sole_consumer

__all__ = ["Clamp", "FoldClip"]

KINDS = frozenset({"Relu", "Clip", "Min", "Max"})


@dataclass(frozen=True, eq=False)
class Clamp:
    """A node that keeps a tensor between two numbers.

    Attributes:
        node: It.
        source: The tensor.
        low: What it is at least; −∞ for no bound.
        high: What it is at most; ∞ for no bound.
    """

    node: ir.Node
    source: ir.Value
    low: float
    high: float

    def of(self, number: float) -> float:
        """Return what becomes of a number."""
        return min(max(number, self.low), self.high)


class FoldClip(Rule[tuple[Clamp, ...], tuple[float, float]]):
    """Clamps that follow each other, and a Max with 0."""

    name = "fold_clip"
    op_types = KINDS

    def pattern(self, node: ir.Node) -> tuple[Clamp, ...] | None:
        """Match a clamp behind another that only it reads, first one first; or a Max with 0 alone."""
        last = _clamp(node)
        if last is None:
            return None
        before = last.source.producer()
        first = None if before is None or sole_consumer(last.source) is not node else _clamp(before)
        if first is not None:
            return first, last
        return (last,) if node.op_type == "Max" and last.low == 0 else None

    def check(self, match: tuple[Clamp, ...]) -> tuple[float, float]:
        """Return the bounds of all together; refuse where nothing is left between them."""
        first, last = match[0], match[-1]
        if any(clamp.low > clamp.high for clamp in match):
            refuse("a lower bound is above the upper one")
        low, high = (first.low, first.high) if first is last else (last.of(first.low), last.of(first.high))
        if low >= high:
            refuse("nothing is left between the bounds")
        return low, high

    def rewrite(self, match: tuple[Clamp, ...], plan: tuple[float, float], names: Names) -> str:
        """Turn the last one into what all of them are; the ones before it go, for nothing else reads them."""
        source, node = match[0].source, match[-1].node
        graph, kind = node.graph, node.outputs[0].dtype
        assert isinstance(graph, ir.Graph)
        assert kind is not None, "a clamp has a float type"
        told = [label(clamp.node) for clamp in match[:-1]]
        node.attributes.clear()
        node.resize_inputs(1)
        node.replace_input_with(0, source)
        if plan == (0.0, math.inf):
            node.op_type = "Relu"
        else:
            node.op_type = "Clip"
            node.resize_inputs(3)
            for index, (end, bound) in enumerate(zip(("min", "max"), plan, strict=True), start=1):
                if math.isfinite(bound):
                    number = np.asarray(bound, kind.numpy())
                    node.replace_input_with(index, add_initializer(graph, names.fresh(f"{node.name}_{end}"), number))
        for clamp in match[:-1]:
            graph.remove(clamp.node, safe=True)
        became = node.op_type if node.op_type == "Relu" else f"Clip({plan[0]:g}, {plan[1]:g})"
        return f"{became}, with '{told[0]}' before it" if told else became


def _clamp(node: ir.Node) -> Clamp | None:
    """Return what a node keeps its input between; None if it is something else, or its bounds are no known numbers."""
    out = node.outputs[0]
    if node.op_type not in KINDS or node.domain not in ("", "ai.onnx") or out.dtype is None or not is_float(out):
        return None
    if node.op_type in ("Min", "Max"):
        return _extreme(node)
    source = node.inputs[0]
    low, high = (0.0, math.inf) if node.op_type == "Relu" else clip_ends(node)
    if source is None or low is None or high is None:
        return None
    return Clamp(node, source, low, high)


def _extreme(node: ir.Node) -> Clamp | None:
    """Return what a Min or Max with one number does to the other operand, if its shape stays as it is."""
    if len(node.inputs) != 2:
        return None
    for source, other in (node.inputs, node.inputs[::-1]):
        number = constant(other)
        if source is None or number is None or number.size != 1 or constant(source) is not None:
            continue
        dimensions, bound = rank(source), float(number.reshape(()))
        if math.isnan(bound) or (number.ndim and (dimensions is None or dimensions < number.ndim)):
            continue
        ends = (-math.inf, bound) if node.op_type == "Min" else (bound, math.inf)
        return Clamp(node, source, *ends)
    return None
