"""The noise of what is constant: of weights and biases, and of what a Mul multiplies by and an Add adds.

A factor for each channel is a weight without neighbours: rounding it makes noise in proportion to what it multiplies.
A rounded bias, or the constant of an Add, shifts the means of everything behind it alike for all samples; where biases
are corrected those of the later layers take most of that away. A channel that is dead on the samples may come to life
if its bias is cut off, so none is free of gain. The constants are measured, on the noise of single tensors and on
finished networks (docs/cle.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.backward import Gains
from equiquant.equalization.builder import Slot
from equiquant.equalization.classes import ScaleClasses
from equiquant.equalization.network import coupling_of
from equiquant.equalization.quantizer_model import QuantizerModel
from equiquant.graph import query
from equiquant.numerics.ranges.noise import COHERENCE
from equiquant.numerics.scales.noise import NoiseTerm, TensorNoise, WeightNoise
from equiquant.numerics.scales.rank_one import rank_one
from equiquant.numerics.statistics.figures import ChannelFigures

__all__ = ["BIAS_LEFT", "LEAST_BIAS_GAIN", "constant_term", "layer_terms", "operands"]

Array = npt.NDArray[Any]

BIAS_LEFT = 0.3  # of the noise of a rounded bias, once later biases are corrected
LEAST_BIAS_GAIN = 0.1  # of the mean gain of a layer's biases


def layer_terms(
    slot: Slot,
    bias: Slot | None,
    figures: Mapping[str, ChannelFigures],
    gains: Mapping[str, Gains],
    quantizer: QuantizerModel,
) -> list[NoiseTerm]:
    """Return the terms of a layer's weight and, if it has a scale of its own, of its bias.

    Args:
        slot: The weight.
        bias: The layer's bias, if any.
        figures: Per-channel figures of tensors, by name.
        gains: Noise gains, by name.
        quantizer: What will be rounded, and how.
    """
    gain = gains.get(slot.node.outputs[0].name or "")
    if gain is None:
        return []  # nothing it computes reaches an output
    coupling = coupling_of(slot, bias)
    white, constant = (_table(g, coupling.rows.shape) for g in (gain.white, gain.constant))
    figure = figures.get(query.name_of(slot.data))
    array = query.constant(slot.value)
    taps = 1.0 if array is None else array.size / coupling.magnitude.size
    if slot.node.op_type == "ConvTranspose":
        taps /= float(np.prod(query.attribute(slot.node, "strides", None) or [1]))
    name = query.label(slot.node)
    if gain.weight is not None and gain.weight.shape == coupling.magnitude.shape and gain.weight.any():
        rows, columns = rank_one(gain.weight)
        noise = rows, np.zeros_like(rows), taps * columns, np.zeros_like(columns)
    else:
        spread, mean = (taps * _table(power, coupling.columns.shape) for power in _powers(figure, quantizer))
        noise = white, constant, spread, mean
    terms: list[NoiseTerm] = [WeightNoise(name, coupling, *noise, quantizer.weight_levels, quantizer.per_channel)]
    if quantizer.bias_levels is not None and coupling.bias is not None:
        left = BIAS_LEFT if quantizer.bias_corrected else 1.0
        terms.append(_bias_term(name, coupling.rows, coupling.bias, constant, quantizer.bias_levels, left))
    return terms


def _bias_term(name: str, rows: Array, bias: Array, gain: Array, levels: float, left: float) -> TensorNoise:
    """Return the term of a bias with a step of its own, of whose rounding noise the part `left` reaches the output."""
    size = np.asarray(bias, dtype=np.float64).reshape(-1)
    gain = np.maximum(gain, LEAST_BIAS_GAIN * gain.mean()).reshape(-1)
    ids, clip_gain = rows.reshape(-1), COHERENCE * gain
    return TensorNoise(name, ids, size, size, left * gain, levels, symmetric=True, clip_gain=clip_gain, kind="bias")


def _powers(figure: ChannelFigures | None, quantizer: QuantizerModel) -> tuple[Array, Array]:
    """Return the power of an input's channels that varies over space and the one that does not, (C,) each.

    What weight noise makes of the mean over all samples is the same for each, and bias correction takes it away. Of an
    input without figures all is taken to vary.
    """
    if figure is None:
        return np.ones(1), np.zeros(1)
    constant = figure.constant_square - figure.mean**2 if quantizer.bias_corrected else figure.constant_square
    return np.maximum(figure.mean_square - figure.constant_square, 0.0), np.maximum(constant, 0.0)


def _table(values: Array, shape: tuple[int, ...]) -> Array:
    """Return per-channel values as a (groups, channels) table; their mean where the channels do not match."""
    if values.size == np.prod(shape):
        return values.reshape(shape).astype(np.float64)
    return np.full(shape, values.mean() if values.size else 0.0)


def operands(classes: ScaleClasses, nodes: Collection[str]) -> list[Slot]:
    """Return the constants of these nodes that are rounded like an activation: factors of channels, what is added."""
    roles = {"Mul": "weight", "Add": "bias", "Sub": "bias"}
    return [s for s in classes.slots if s.role == roles.get(s.node.op_type) and query.label(s.node) in nodes]


def constant_term(
    slot: Slot, figures: Mapping[str, ChannelFigures], gains: Mapping[str, Gains], quantizer: QuantizerModel
) -> NoiseTerm | None:
    """Return the term of what a Mul multiplies by or an Add adds; None where its rounding reaches no output.

    Args:
        slot: The constant.
        figures: Per-channel figures of tensors, by name.
        gains: Noise gains, by name.
        quantizer: What will be rounded, and how.
    """
    array, gain = query.constant(slot.value), gains.get(slot.node.outputs[0].name or "")
    if array is None or gain is None or array.size < 2 or not array.any():
        return None  # one number is as good as exact
    if slot.role == "weight":
        return _factor_term(slot, array, figures.get(query.name_of(slot.data)), gain, quantizer)
    return _summand_term(slot, array, gain, quantizer)


def _factor_term(
    slot: Slot, array: Array, figure: ChannelFigures | None, gain: Gains, quantizer: QuantizerModel
) -> WeightNoise:
    coupling = coupling_of(slot, None)
    white, constant = (_table(g, coupling.rows.shape) for g in (gain.white, gain.constant))
    spread, mean = (_table(power, coupling.columns.shape) for power in _powers(figure, quantizer))
    one_sided = array.min() >= 0 or array.max() <= 0
    levels = quantizer.activation_levels
    steps = levels if quantizer.symmetric or one_sided else levels / 2
    return WeightNoise(query.label(slot.node), coupling, white, constant, spread, mean, steps)


def _summand_term(slot: Slot, array: Array, gain: Gains, quantizer: QuantizerModel) -> TensorNoise | None:
    """Return the term of what is added; None where the classes differ along more than one axis."""
    varying = [axis - slot.gain.ndim for axis, size in enumerate(slot.gain.shape) if size > 1]
    if len(varying) > 1:
        return None
    ids, values = np.broadcast_arrays(slot.gain, array)
    axis = varying[0] if varying else int(np.argmax(values.shape)) - values.ndim
    ids, values = (np.moveaxis(part, axis, 0).reshape(part.shape[axis], -1) for part in (ids, values))
    same = (values == values[:, :1]).all()  # all over a channel, so that its rounding shifts a mean
    each = gain.constant if same else gain.white
    each = np.maximum(_table(each, (ids.shape[0],)), LEAST_BIAS_GAIN * each.mean())
    left = BIAS_LEFT if quantizer.bias_corrected and same else 1.0
    high, low = np.maximum(values.max(axis=1), 0.0), np.maximum(-values.min(axis=1), 0.0)
    return TensorNoise(
        query.label(slot.node),
        ids[:, 0],
        high.astype(np.float64),
        low.astype(np.float64),
        left * each,
        quantizer.activation_levels,
        quantizer.symmetric,
        clip_gain=COHERENCE * each,
        kind="bias",
    )
