"""Which tensors of a float model are compared with which of its quantized twin, and which of them in one piece."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from equiquant.graph.edit import infer_shapes
from equiquant.graph.varying import varying
from equiquant.io import Feed
from equiquant.verify.heard import EVERYTHING, Ends, heard
from equiquant.verify.twins import twin

__all__ = ["Pair", "compared_pairs", "grouped"]


RETURNED = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)  # the floats onnxruntime hands to Python
GROUP_BYTES = 128 * 1024 * 1024  # float activations alive at once, both models together


@dataclass(frozen=True)
class Pair:
    """Two tensors to compare.

    Attributes:
        name: Name in the float model.
        compared: Name in the quantized one.
        op_type: Kind of the node that produces it, `Input` for a graph input.
        bytes: What both take, of one feed.
        ends: Beyond these nothing of it is heard.
    """

    name: str
    compared: str
    op_type: str
    bytes: int
    ends: Ends


def compared_pairs(float_model: ir.Model, quantized_model: ir.Model, feed: Feed) -> list[Pair]:
    """Return the float tensors both models have by name, in graph order; not those in a number that may differ."""
    public = {v.name for v in float_model.graph.outputs}
    twins = {v.name: twin(v) for v in quantized_model.graph.inputs}
    twins |= {v.name: twin(v) for node in quantized_model.graph for v in node.outputs}
    sized = _with_shapes(float_model, feed)
    unlike = varying(sized)
    found: list[tuple[ir.Value, str]] = [
        (v, "Input") for v in sized.graph.inputs if v.name and v.name in feed and twins.get(v.name) != v.name
    ]
    found += [(v, node.op_type) for node in sized.graph if node.op_type != "Constant" for v in node.outputs]
    ends = heard([value for value, _ in found], quantized_model)
    known = [size for value, _ in found if (size := _elements(value)) is not None]
    guess = max(known, default=1)  # a tensor of unknown shape is taken for the largest one
    return [
        Pair(v.name, twins[v.name], op_type, 2 * 4 * (_elements(v) or guess), ends.get(v.name, EVERYTHING))
        for v, op_type in found
        if v.name
        and v.name not in public
        and v.name in twins
        and isinstance(v.type, ir.TensorType)
        and v.type.dtype in RETURNED
        and v not in unlike
    ]


def _with_shapes(model: ir.Model, feed: Feed) -> ir.Model:
    """Return a copy whose shapes are those of this feed."""
    copy = model.clone()
    for value in copy.graph.inputs:
        if value.name and value.name in feed:
            value.shape = ir.Shape(np.asarray(feed[value.name]).shape)
    infer_shapes(copy)
    return copy


def _elements(value: ir.Value) -> int | None:
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return math.prod(d for d in value.shape if isinstance(d, int))


def grouped(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Cut the pairs, in graph order, into groups of at most `GROUP_BYTES`; at least one, perhaps empty."""
    groups: list[list[Pair]] = [[]]
    size = 0
    for pair in pairs:
        if groups[-1] and size + pair.bytes > GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(pair)
        size += pair.bytes
    return groups
