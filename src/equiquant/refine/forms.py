"""Conv, ConvTranspose, Gemm and MatMul as one product of matrices: y = W·x for every output position, in groups.

The weight is seen as (G, M, K): G groups, M outputs and K inputs of each. Gemm's alpha belongs to the weight and its
beta to the bias.
Source: ONNX operator specification, version 21.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import attribute, static_shape
from equiquant.graph.windows import window
from equiquant.numerics.layers.patches import Patches

__all__ = ["Form", "form_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Form:
    """How one layer's weight and input become matrices.

    Attributes:
        op_type: The operator.
        shape: Shape of the weight as stored.
        groups: Groups that do not mix.
        patches: The sliding window; None for Gemm and MatMul.
        gain: Multiplies the weight: Gemm's alpha.
        bias_gain: Multiplies the bias: Gemm's beta.
        transposed: The stored weight is (outputs, inputs): Gemm's transB.
    """

    op_type: str
    shape: tuple[int, ...]
    groups: int = 1
    patches: Patches | None = None
    gain: float = 1.0
    bias_gain: float = 1.0
    transposed: bool = False

    @property
    def outputs(self) -> int:
        """Output channels, of all groups."""
        if self.op_type == "ConvTranspose":
            return self.shape[1] * self.groups
        return self.shape[0] if self.op_type == "Conv" or self.transposed else self.shape[1]

    @property
    def channels(self) -> int:
        """Channels of the layer's input, of all groups."""
        if self.op_type == "Conv":
            return self.shape[1] * self.groups
        return self.shape[0] if self.op_type == "ConvTranspose" else self.inputs

    @property
    def inputs(self) -> int:
        """Inputs of one output: K."""
        if self.op_type == "ConvTranspose":
            return self.shape[0] // self.groups * math.prod(self.shape[2:])
        return math.prod(self.shape) // self.outputs

    def rows(self, weight: Array) -> Array:
        """Return a weight as stored, or anything of its shape, as (G, M, K); alpha is left out."""
        if self.op_type == "Conv":
            return weight.reshape(self.groups, self.shape[0] // self.groups, -1)
        if self.op_type == "ConvTranspose":
            mirrored = weight[(slice(None), slice(None), *[slice(None, None, -1)] * (weight.ndim - 2))]
            grouped = mirrored.reshape(self.groups, -1, self.shape[1], math.prod(self.shape[2:]))
            return grouped.swapaxes(1, 2).reshape(self.groups, self.shape[1], -1)
        return (weight if self.transposed else weight.T)[None]

    def stored(self, rows: Array) -> Array:
        """Return (G, M, K) in the weight's own shape."""
        if self.op_type == "Conv":
            return rows.reshape(self.shape)
        if self.op_type == "ConvTranspose":
            grouped = rows.reshape(self.groups, self.shape[1], -1, math.prod(self.shape[2:])).swapaxes(1, 2)
            mirrored: Array = np.flip(grouped.reshape(self.shape), axis=tuple(range(2, len(self.shape))))
            return mirrored
        only: Array = rows[0]
        return only if self.transposed else only.T

    def columns(self, x: Array, most: int | None = None, shift: int = 0, fill: int = 0) -> Array:
        """Return what the output positions read: (N, G, K, P) for an input as the node gets it.

        Args:
            x: The input.
            most: About as many positions a sample at most, None for all.
            shift: Chooses which ones.
            fill: What stands for 0.
        """
        if self.patches is not None:
            found = self.patches.columns(x, most, shift, fill)
            return found.reshape(len(x), self.groups, -1, found.shape[-1])
        if x.ndim < 3:
            return np.atleast_2d(x)[:, None, :, None]
        positions = x.reshape(len(x), -1, x.shape[-1])
        if most is not None and positions.shape[1] > most:
            step = -(-positions.shape[1] // most)
            positions = positions[:, shift % step :: step]
        return positions.swapaxes(1, 2)[:, None]

    def mean_column(self, x: Array) -> Array:
        """Return the mean of what the output positions read: (N, G, K)."""
        if self.patches is None:
            return np.asarray(self.columns(x).mean(axis=3))
        return self.patches.mean_column(x).reshape(len(x), self.groups, -1)

    def even_column(self, means: Array, spatial: Sequence[int]) -> Array:
        """Return the mean of what the output positions read, (G, K), where every channel is the same all over.

        Args:
            means: (C,) of the input's channels.
            spatial: The input's sizes, which tell how often a window reaches beyond its border; what is smaller than
                a window counts as large as one.
        """
        if self.patches is None:
            return means[None]
        inside = self.patches.mean_column(np.ones((1, 1, *self.patches.holding_one(spatial))))[0, 0]
        return np.outer(means, inside).reshape(self.groups, -1)


def form_of(node: ir.Node, weight: Array) -> Form | str:
    """Return the form of a layer with a constant weight, or why it has none."""
    shape = weight.shape
    if node.op_type in ("Conv", "ConvTranspose"):
        transposed = node.op_type == "ConvTranspose"
        patches = _transposed(node, shape[2:]) if transposed else _window(node, shape[2:])
        return patches if isinstance(patches, str) else Form(node.op_type, shape, attribute(node, "group", 1), patches)
    if weight.ndim != 2:
        return "its weight is a stack of matrices, or a vector"
    if node.op_type == "MatMul":
        return Form("MatMul", shape)
    if attribute(node, "transA", 0):
        return "it transposes its input"
    gain, bias_gain = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    if gain == 0 or bias_gain == 0:
        return "its alpha or beta is 0"
    return Form("Gemm", shape, 1, None, gain, bias_gain, bool(attribute(node, "transB", 0)))


def _window(node: ir.Node, kernel: tuple[int, ...]) -> Patches | str:
    rank = len(kernel)
    strides = tuple(attribute(node, "strides", None) or [1] * rank)
    dilations = tuple(attribute(node, "dilations", None) or [1] * rank)
    mode = attribute(node, "auto_pad", "NOTSET")
    pads = list(attribute(node, "pads", None) or [0] * 2 * rank) if mode == "NOTSET" else [0] * 2 * rank
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        source, result = _spatial(node.inputs[0], rank), _spatial(node.outputs[0], rank)
        if source is None or result is None:
            return f"its padding depends on the size of its input (auto_pad={mode})"
        pads = window(node, kernel, source, result).pads
    return Patches(kernel, strides, dilations, tuple(pads[:rank]), tuple(pads[rank:]), (1,) * rank)


def _spatial(value: ir.Value | None, rank: int) -> list[int] | None:
    """Return the sizes a window of that rank slides over, None unless all are known."""
    shape = None if value is None else static_shape(value)
    sizes = [size for size in (shape or ())[2:] if size is not None]
    return sizes if len(sizes) == rank else None


def _transposed(node: ir.Node, kernel: tuple[int, ...]) -> Patches | str:
    rank = len(kernel)
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in node.attributes:
        return "its padding follows from the size of its output"
    strides = tuple(attribute(node, "strides", None) or [1] * rank)
    dilations = tuple(attribute(node, "dilations", None) or [1] * rank)
    pads = attribute(node, "pads", None) if mode == "NOTSET" else None
    extra = attribute(node, "output_padding", None) or [0] * rank
    begins, ends = (list(pads)[:rank], list(pads)[rank:]) if pads else ([0] * rank, [0] * rank)
    reach = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    return Patches(
        kernel,
        (1,) * rank,
        dilations,
        tuple(r - b for r, b in zip(reach, begins, strict=True)),
        tuple(r - e + p for r, e, p in zip(reach, ends, extra, strict=True)),
        strides,
    )
