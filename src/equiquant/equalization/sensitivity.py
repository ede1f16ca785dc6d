"""How much noise on a tensor's channel reaches the output: variance propagated backward with measured gates.

Two gains a channel: `white`, the output noise power for independent noise of variance 1 at every position of the
channel, and `constant`, for one noise value of variance 1 at all its positions. They are enough to follow noise through
a convolution: with n positions, the part `white − c` is local and c = (constant − white)/(n − 1) adds up coherently.

    activation  p = share of open gates, α the slope:  m1 = p + α(1 − p),  m2 = p + α²(1 − p)
                white_in = m2·white,   constant_in = m1²·constant + (m2 − m1²)·white
    linear      white_in[i] = Σ_o (white − c)_o Σ_k W² + c_o Σ_phases (Σ_{k in stride phase} W)²
                constant_in[i] = Σ_o (white − c)_o Σ_k W² + n·c_o (Σ_k W)²

Gains start at 1/signal power of every output, so that J is noise over signal. An op without a rule of its own keeps the
noise-to-signal ratio. Source: DESIGN, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.equalization.builder import ClassBuilder
from equiquant.equalization.rules import RULES
from equiquant.equalization.rules.clip import bounds
from equiquant.graph import query

__all__ = ["ChannelFigures", "Gains", "sensitivities"]

Array = npt.NDArray[Any]

MOVERS = frozenset(
    {"Concat", "Split", "Slice", "Gather", "Pad", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"}
    | {"DepthToSpace", "SpaceToDepth", "Tile", "Resize", "Upsample", "Identity", "Dropout", "Cast", "Neg", "Abs"}
    | {"MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"}
)
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
FLOOR = 1e-6  # of a tensor's mean gain: a channel nobody listens to still keeps a place


@dataclass(frozen=True, eq=False)
class ChannelFigures:
    """What a calibration pass says of one tensor's channels, float64, shape `(C,)` each.

    Attributes:
        axis: The channel axis.
        mean: E x.
        mean_square: E x².
        low: Smallest value.
        high: Largest value.
        positive: Share of values above 0.
        saturated: Share of values at or above the bound of the Clip that produced them.
        positions: Values of one channel per sample.
    """

    axis: int
    mean: Array
    mean_square: Array
    low: Array
    high: Array
    positive: Array
    saturated: Array
    positions: float


@dataclass(frozen=True, eq=False)
class Gains:
    """Noise gains of one tensor's channels, `(C,)` each, C = 1 where channels are not told apart."""

    white: Array
    constant: Array

    def __add__(self, other: Gains) -> Gains:
        """Noise that reaches the output on two ways adds up."""
        return Gains(self.white + other.white, self.constant + other.constant)


def sensitivities(model: ir.Model, figures: Mapping[str, ChannelFigures]) -> dict[ir.Value, Gains]:
    """Return the gains of every float tensor on a way to an output.

    Args:
        model: The float model.
        figures: Calibrated figures by value name; tensors without any are taken as of variance 1.
    """
    return _Backward(model, figures).run()


class _Backward:
    """One walk from the outputs to the inputs."""

    def __init__(self, model: ir.Model, figures: Mapping[str, ChannelFigures]) -> None:
        self._model, self._figures = model, figures
        self._gains: dict[ir.Value, Gains] = {}

    def run(self) -> dict[ir.Value, Gains]:
        for output in self._model.graph.outputs:
            if output.dtype is not None and output.dtype.is_floating_point():
                self._add(output, self._seed(output))
        for node in reversed(list(self._model.graph)):
            outputs = [self._gains.get(v) for v in node.outputs]
            if any(g is not None for g in outputs):
                self._visit(node, outputs)
        return {value: _floored(gains) for value, gains in self._gains.items()}

    def _visit(self, node: ir.Node, outputs: list[Gains | None]) -> None:
        gains = outputs[0]
        kind = node.op_type if node.domain == "" else ""
        if kind in ("Conv", "ConvTranspose", "Gemm", "MatMul") and gains is not None and self._linear(node, gains):
            return
        if kind in ("Relu", "LeakyRelu", "PRelu", "Clip") and gains is not None:
            self._add(node.inputs[0], self._gate(node, gains))
        elif kind in ("BatchNormalization", "Mul", "Div") and gains is not None:
            self._scale(node, gains)
        elif kind in ("Add", "Sub", "Sum", "Max", "Min", "Mean", "Where") and gains is not None:
            for value in node.inputs[1 if kind == "Where" else 0 :]:
                self._add(value, self._fitted(gains, value))
        elif kind in MOVERS | AVERAGES:
            self._move(node, outputs)
        elif gains is not None:
            for value in node.inputs:
                self._relative(value, node.outputs[0], gains)

    def _seed(self, output: ir.Value) -> Gains:
        figures = self._figures.get(output.name or "")
        power = 1.0 if figures is None else float(figures.mean_square.sum())
        size = self._channels(output) if figures is None else figures.mean.size
        seed = np.full(size, 1.0 / power if power > 0 else 1.0)
        return Gains(seed, seed.copy())

    def _add(self, value: ir.Value | None, gains: Gains) -> None:
        if value is None or query.constant(value) is not None:
            return
        if value.dtype is not None and not value.dtype.is_floating_point():
            return
        before = self._gains.get(value)
        if before is not None and before.white.size != gains.white.size:
            size = max(before.white.size, gains.white.size)
            before, gains = _resized(before, size), _resized(gains, size)
        self._gains[value] = gains if before is None else before + gains

    def _channels(self, value: ir.Value) -> int:
        """Return the number of channels gains of a value are told apart by: axis 1, or the calibrated axis."""
        figures = self._figures.get(value.name or "")
        if figures is not None:
            return figures.mean.size
        shape = query.static_shape(value)
        return (shape[1] or 1) if shape is not None and len(shape) > 1 else 1

    def _fitted(self, gains: Gains, value: ir.Value | None) -> Gains:
        if value is None:
            return gains
        size = self._channels(value)
        return gains if size == gains.white.size else _resized(gains, size)

    def _positions(self, value: ir.Value) -> float:
        figures = self._figures.get(value.name or "")
        if figures is not None:
            return figures.positions
        shape = query.static_shape(value) or ()
        return float(np.prod([d or 1 for d in shape[2:]], dtype=np.float64))

    def _linear(self, node: ir.Node, gains: Gains) -> bool:
        """Propagate through a constant weight; False if there is none."""
        index = 1 if query.constant(node.inputs[1]) is not None else 0
        weight = query.constant(node.inputs[index])
        if weight is None or weight.ndim < 2 or (node.op_type == "MatMul" and (weight.ndim != 2 or index == 0)):
            return False
        squares, phases, sums = _kernel_sums(node, weight.astype(np.float32, copy=False))
        groups = int(query.attribute(node, "group", 1)) if node.op_type.startswith("Conv") else 1
        if gains.white.size != squares.shape[0]:
            gains = _resized(gains, squares.shape[0])
        n = max(self._positions(node.outputs[0]), 1.0)
        coherent = (gains.constant - gains.white) / (n - 1) if n > 1 else np.zeros_like(gains.white)
        coherent = np.clip(coherent, 0.0, gains.white)
        local = gains.white - coherent
        white = _grouped(local, squares, groups) + _grouped(coherent, phases, groups)
        constant = _grouped(local, squares, groups) + n * _grouped(coherent, sums, groups)
        self._add(node.inputs[1 - index], Gains(white, constant))
        return True

    def _gate(self, node: ir.Node, gains: Gains) -> Gains:
        figures = self._figures.get(node.outputs[0].name or "") or self._figures.get(node.inputs[0].name or "")  # type: ignore[union-attr]
        opened = np.full(1, 0.5) if figures is None else figures.positive
        slope: Array | float = 0.0
        if node.op_type == "LeakyRelu":
            slope = float(query.attribute(node, "alpha", 0.01))
        elif node.op_type == "PRelu":
            constant = query.constant(node.inputs[1])
            flat = np.zeros(1) if constant is None else constant.reshape(-1).astype(np.float64)
            slope = flat if flat.size in (1, gains.white.size) else np.abs(flat).mean()
        elif node.op_type == "Clip":
            limits = bounds(node)
            if limits is not None and np.isfinite(limits[1]) and figures is not None:
                opened = opened - figures.saturated
            if limits is not None and limits[0] < 0:
                opened = np.ones(1)
        if opened.size not in (1, gains.white.size):
            opened = np.full(1, opened.mean())
        first, second = opened + slope * (1 - opened), opened + np.square(slope) * (1 - opened)
        constant_gain = first**2 * gains.constant + (second - first**2) * gains.white
        return Gains(second * gains.white, constant_gain)

    def _scale(self, node: ir.Node, gains: Gains) -> None:
        """BatchNormalization, and products with a constant or with another tensor."""
        if node.op_type == "BatchNormalization":
            scale, variance = query.constant(node.inputs[1]), query.constant(node.inputs[4])
            factor = np.ones(1) if scale is None or variance is None else scale**2 / (variance + 1e-5)
            return self._add(node.inputs[0], Gains(gains.white * factor, gains.constant * factor))
        for index, value in enumerate(node.inputs[:2]):
            other = node.inputs[1 - index]
            constant = query.constant(other)
            power: Array = np.ones(1)
            if constant is not None:
                power = np.square(constant.astype(np.float64)).reshape(-1)
                power = 1 / np.maximum(power, 1e-30) if node.op_type == "Div" else power
            elif other is not None and (figures := self._figures.get(other.name or "")) is not None:
                power = figures.mean_square
            if power.size not in (1, gains.white.size):
                power = np.full(1, power.mean())
            self._add(value, self._fitted(Gains(gains.white * power, gains.constant * power), value))
        return None

    def _relative(self, value: ir.Value | None, output: ir.Value, gains: Gains) -> None:
        """Keep the noise-to-signal ratio: what an op without a rule is assumed to do."""
        if value is None or query.constant(value) is not None:
            return
        before, after = self._figures.get(value.name or ""), self._figures.get(output.name or "")
        ratio = 1.0
        if before is not None and after is not None and before.mean_square.sum() > 0:
            ratio = float(after.mean_square.mean() / before.mean_square.mean())
        mean = Gains(np.full(1, gains.white.mean() * ratio), np.full(1, gains.constant.mean() * ratio))
        self._add(value, _resized(mean, self._channels(value)))

    def _move(self, node: ir.Node, outputs: list[Gains | None]) -> None:
        """Send every output channel's gain back to the channel it came from, as the class rule says."""
        scratch = ClassBuilder()
        sources = [v for v in node.inputs if v is not None and query.constant(v) is None]
        for value in sources:
            rank = query.rank(value)
            if rank is None or (value.dtype is not None and not value.dtype.is_floating_point()):
                continue
            figures = self._figures.get(value.name or "")
            axis = figures.axis % rank if figures is not None else min(1, rank - 1)
            scratch.set(value, scratch.fresh(self._channels(value), rank, axis) if rank else np.ones((), np.int64))
        RULES[node.op_type](scratch, node)
        share = 1.0
        if node.op_type in AVERAGES and sources:
            share = max(self._positions(node.outputs[0]), 1.0) / max(self._positions(sources[0]), 1.0)
        for value in sources:
            ids = scratch.values.get(value)
            if ids is None or not ids.any():
                continue
            white, constant = np.zeros(scratch.count), np.zeros(scratch.count)
            for output, gains in zip(node.outputs, outputs, strict=True):
                if gains is not None:
                    self._collect(scratch, output, gains, white, constant)
            picked = ids.reshape(-1)
            self._add(value, Gains(white[picked] * share, constant[picked]))

    def _collect(self, scratch: ClassBuilder, output: ir.Value, gains: Gains, white: Array, constant: Array) -> None:
        ids = scratch.ids(output)
        figures = self._figures.get(output.name or "")
        if ids.ndim == 0 or not ids.any():
            return
        shape = [1] * ids.ndim
        axis = figures.axis % ids.ndim if figures is not None else min(1, ids.ndim - 1)
        if gains.white.size > 1:
            shape[axis] = gains.white.size
        try:
            places, whites, constants = np.broadcast_arrays(
                ids, gains.white.reshape(shape), gains.constant.reshape(shape)
            )
        except ValueError:
            places, whites, constants = (
                ids,
                np.full(ids.shape, gains.white.mean()),
                np.full(ids.shape, gains.constant.mean()),
            )
        repeated = places.size / max(ids.size, 1)  # one class met by many channels of the output: their mean counts
        white += np.bincount(places.reshape(-1), whites.reshape(-1), minlength=white.size) / max(repeated, 1.0)
        constant += np.bincount(places.reshape(-1), constants.reshape(-1), minlength=white.size) / max(repeated, 1.0)


def _kernel_sums(node: ir.Node, weight: Array) -> tuple[Array, Array, Array]:
    """Return Σ_k W², Σ_phases (Σ_{k in phase} W)² and (Σ_k W)², each (O, I/groups)."""
    if node.op_type in ("Gemm", "MatMul"):
        matrix = weight if node.op_type == "Gemm" and query.attribute(node, "transB", 0) else weight.T
        square = matrix**2
        return square, square, square
    transposed = node.op_type == "ConvTranspose"
    spatial = weight.ndim - 2
    strides = list(query.attribute(node, "strides", None) or [1] * spatial)
    if transposed:  # every input position reaches all taps: no phases among its outputs
        groups = int(query.attribute(node, "group", 1))
        inputs, outputs = weight.shape[:2]
        weight = weight.reshape(groups, inputs // groups, outputs, *weight.shape[2:])
        weight = weight.swapaxes(1, 2).reshape(groups * outputs, inputs // groups, *weight.shape[3:])
        strides = [1] * spatial
    axes = tuple(range(2, weight.ndim))
    squares = np.square(weight).sum(axis=axes)
    sums = np.square(weight.sum(axis=axes))
    if all(s == 1 for s in strides):
        return squares, sums, sums
    phases = np.zeros_like(sums)
    for start in np.ndindex(*[min(s, k) for s, k in zip(strides, weight.shape[2:], strict=True)]):
        part = weight[(slice(None), slice(None), *(slice(b, None, s) for b, s in zip(start, strides, strict=True)))]
        phases += np.square(part.sum(axis=axes))
    return squares, phases, sums


def _grouped(gains: Array, table: Array, groups: int) -> Array:
    """Return Σ_o gains[o]·table[o, i] for every input channel, groups side by side, (I,)."""
    per_group = table.reshape(groups, -1, table.shape[1])
    return np.asarray(np.einsum("go,goi->gi", gains.reshape(groups, -1), per_group).reshape(-1))


def _resized(gains: Gains, size: int) -> Gains:
    """Return gains for another number of channels: their mean, where channels cannot be matched."""
    if gains.white.size == size:
        return gains
    return Gains(np.full(size, gains.white.mean()), np.full(size, gains.constant.mean()))


def _floored(gains: Gains) -> Gains:
    return Gains(
        np.maximum(gains.white, FLOOR * gains.white.mean()), np.maximum(gains.constant, FLOOR * gains.constant.mean())
    )
