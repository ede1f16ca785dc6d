"""Build the noise objective of a network: one term a quantized weight, bias and activation tensor.

The terms follow the quantizer that comes after: which nodes and tensors are quantized, with how many levels, symmetric
or not, per tensor or per channel, with an int8 bias or an int32 one (whose rounding does not count).

What a range cuts off an activation has one sign, and fills the positions of a channel as far as its activity does: that
part counts as noise that is constant over space. A rounded bias shifts the means of everything behind it alike for all
samples; where biases are corrected those of the later layers take most of that away. A channel that is dead on the
samples may come to life if its bias is cut off, so none is free of gain. The constants are measured, on the noise
of single tensors and on finished networks (docs/cle.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward import Gains
from equiquant.equalization.builder import ClipSite, Slot
from equiquant.equalization.classes import ScaleClasses
from equiquant.equalization.network import coupling_of
from equiquant.equalization.shared_ranges import Groups, share_ranges
from equiquant.graph import query
from equiquant.numerics.coupling import grouped
from equiquant.numerics.figures import ChannelFigures
from equiquant.numerics.noise import NoiseTerm, TensorNoise, WeightNoise
from equiquant.numerics.parallel import parallel
from equiquant.numerics.range_noise import COHERENCE, RangeNoise, WeightRange
from equiquant.numerics.rank_one import rank_one
from equiquant.numerics.sketch import MagnitudeSketch
from equiquant.numerics.tail import beyond

__all__ = ["QuantizerModel", "Sketches", "noise_terms", "range_terms"]

Array = npt.NDArray[Any]
CUT, CUT_STEADY = 2.0, 0.25  # gain of what a range cuts off: of what is white over space, and of what is steady
BIAS_LEFT = 0.3  # of the noise of a rounded bias, once later biases are corrected
LEAST_BIAS_GAIN = 0.1  # of the mean gain of a layer's biases
Sketches = tuple[MagnitudeSketch, MagnitudeSketch]
"""The positive and the negative side of a tensor."""


@dataclass(frozen=True)
class QuantizerModel:
    """What the equalizer needs to know of the quantizer that follows.

    Attributes:
        nodes: Names of the nodes whose weights are quantized.
        tensors: Names of the activation tensors that are rounded.
        weight_levels: Largest integer of a weight, 127 for int8.
        activation_levels: Steps in an activation's range: 127 for symmetric 8 bits, 255 for asymmetric.
        symmetric: Activation ranges are symmetric about 0.
        per_channel: Weights have one step an output channel.
        unsigned: Names of the tensors that are never negative and use the whole range of their type.
        unsigned_levels: Steps in theirs.
        bias_levels: Largest integer of a bias with a scale of its own, None where biases are as good as exact.
        bias_corrected: The mean error of every output channel will be taken away by its bias.
        shared: Names of the tensors of each group that has one range.
    """

    nodes: Collection[str]
    tensors: Collection[str]
    weight_levels: float = 127.0
    activation_levels: float = 255.0
    symmetric: bool = False
    per_channel: bool = False
    bias_levels: float | None = None
    bias_corrected: bool = False
    unsigned: Collection[str] = frozenset()
    unsigned_levels: float = 255.0
    shared: Groups = ()


def noise_terms(
    classes: ScaleClasses,
    figures: Mapping[str, ChannelFigures],
    gains: Mapping[str, Gains],
    quantizer: QuantizerModel,
    sketches: Mapping[str, Sketches] | None = None,
) -> list[NoiseTerm]:
    """Return the terms of J for a model as it is now (z = 0).

    Args:
        classes: The scale classes of the model as it is now.
        figures: Per-channel figures of its tensors, by name; a tensor without counts as of variance 1.
        gains: Noise gains of the rounded tensors and of the layers' outputs, by name; a tensor without is left out.
        quantizer: What will be rounded, and how.
        sketches: Both sides of its tensors, by name: 0 is rounded to itself, and only what is not makes noise.
    """
    terms: list[NoiseTerm] = []
    bias_of = {slot.node: slot for slot in classes.slots if slot.role == "bias"}
    layers = [slot for slot in classes.layers if query.label(slot.node) in quantizer.nodes]
    for found in parallel(lambda s: _layer_terms(s, bias_of.get(s.node), figures, gains, quantizer), layers):
        terms += found
    wanted = set(quantizer.tensors)
    seen = _before_clips(classes)
    for value in classes.values:
        name = value.name or ""
        if name in wanted and name in figures and name in gains:
            sketch = (sketches or {}).get(seen.get(name, name))
            occupied = 1.0 if sketch is None else _occupied(sketch, clipped=name in seen)
            terms.append(_tensor_term(value, classes, figures[name], gains[name], occupied, quantizer))
    return share_ranges(terms, quantizer.shared)


def _before_clips(classes: ScaleClasses) -> dict[str, str]:
    """Return what goes into each Clip(0, c), by what comes out of it."""
    return {_name(site.node.outputs[0]): _name(site.node.inputs[0]) for site in classes.clips}


def _occupied(sketches: Sketches, *, clipped: bool) -> Array:
    """Return the share of each channel's values that are not 0, (C,); of the positive ones if a Clip follows."""
    positive, negative = (side.share.sum(axis=1) for side in sketches)
    return np.asarray(positive if clipped else positive + negative)


def range_terms(
    classes: ScaleClasses,
    terms: Sequence[NoiseTerm],
    sketches: Mapping[str, Sketches],
) -> tuple[list[WeightRange], list[RangeNoise]]:
    """Return the same noise for a quantizer that may clip: weights number by number, tensors by their sketches.

    Args:
        classes: The scale classes.
        terms: From `noise_terms`.
        sketches: Both sides of every rounded tensor, and of what goes into a Clip, by name.
    """
    slots = {query.label(s.node): s for s in classes.slots if s.role == "weight"}
    clips = {site.node.outputs[0].name or "": site for site in classes.clips}
    weights: list[WeightRange] = []
    tensors: list[RangeNoise] = []
    for term in terms:
        if isinstance(term, WeightNoise):
            slot = slots[term.name]
            array = query.constant(slot.value)
            assert array is not None
            weights.append(WeightRange(term, grouped(array, slot.groups, slot.out_axis)))
        elif term.kind == "bias":
            side = (term.high[:, None], np.ones((term.high.size, 1)), term.high)
            gains = term.gain, term.clip_gain
            tensors.append(RangeNoise(term.name, term.ids, *gains, (side,), term.levels, kind="bias"))
        else:
            site = clips.get(term.name)
            source = term.name if site is None else _name(site.node.inputs[0])
            if source in sketches:
                tensors.append(_range(term, sketches[source], site))
    return weights, tensors


def _range(term: TensorNoise, sketches: Sketches, site: ClipSite | None) -> RangeNoise:
    """Return a tensor with a range of its own: without the channels of those it shares its range with."""
    used = sketches if site is None and sketches[1].high.any() else sketches[:1]
    sides = [_side(side) for side in used]
    if term.symmetric:
        values, share = (np.concatenate([side[k] for side in sides], axis=1) for k in (0, 1))
        sides = [(values, share, np.max([side[2] for side in sides], axis=0))]
    bound, bound_id = (np.inf, 0) if site is None else (site.bound, int(site.bound_id))
    own = slice(sketches[0].high.size)
    gains = term.gain[own], term.clip_gain[own]
    return RangeNoise(term.name, term.ids[own], *gains, tuple(sides), term.levels, bound, bound_id)


def _side(side: MagnitudeSketch) -> tuple[Array, Array, Array]:
    """Return each channel's magnitudes up to its largest and what is to come beyond, their shares, and the largest."""
    values, (further, rest) = np.minimum(side.values, side.high[:, None]), beyond(side)
    return np.column_stack([values, further]), np.column_stack([side.share, rest]), side.high


def _name(value: ir.Value | None) -> str:
    return (value.name if value is not None else "") or ""


def _layer_terms(
    slot: Slot,
    bias: Slot | None,
    figures: Mapping[str, ChannelFigures],
    gains: Mapping[str, Gains],
    quantizer: QuantizerModel,
) -> list[NoiseTerm]:
    gain = gains.get(slot.node.outputs[0].name or "")
    if gain is None:
        return []  # nothing it computes reaches an output
    coupling = coupling_of(slot, bias)
    white, constant = (_table(g, coupling.rows.shape) for g in (gain.white, gain.constant))
    figure = figures.get(_name(slot.data))
    array = query.constant(slot.value)
    taps = 1.0 if array is None else array.size / coupling.magnitude.size
    if slot.node.op_type == "ConvTranspose":
        taps /= float(np.prod(query.attribute(slot.node, "strides", None) or [1]))
    name = query.label(slot.node)
    if gain.weight is not None and gain.weight.shape == coupling.magnitude.shape and gain.weight.any():
        rows, columns = rank_one(gain.weight)
        noise = rows, np.zeros_like(rows), taps * columns, np.zeros_like(columns)
    else:
        powers = (np.ones(1), np.zeros(1)) if figure is None else _powers(figure, quantizer)
        spread, mean = (taps * _table(power, coupling.columns.shape) for power in powers)
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


def _powers(figure: ChannelFigures, quantizer: QuantizerModel) -> tuple[Array, Array]:
    """Return the power of an input's channels that varies over space and the one that does not, (C,) each.

    What weight noise makes of the mean over all samples is the same for each, and bias correction takes it away.
    """
    constant = figure.constant_square - figure.mean**2 if quantizer.bias_corrected else figure.constant_square
    return np.maximum(figure.mean_square - figure.constant_square, 0.0), np.maximum(constant, 0.0)


def _table(values: Array, shape: tuple[int, ...]) -> Array:
    """Return per-channel values as a (groups, channels) table; their mean where the channels do not match."""
    if values.size == np.prod(shape):
        return values.reshape(shape).astype(np.float64)
    return np.full(shape, values.mean() if values.size else 0.0)


def _tensor_term(
    value: ir.Value,
    classes: ScaleClasses,
    figure: ChannelFigures,
    gains: Gains,
    occupied: Array | float,
    quantizer: QuantizerModel,
) -> TensorNoise:
    size = figure.mean.size
    ids = classes.values.get(value, np.zeros((), dtype=np.int64))
    if ids.ndim:
        ids = np.moveaxis(ids, figure.axis, 0).reshape(ids.shape[figure.axis], -1)[:, 0]
    ids = np.ascontiguousarray(
        np.broadcast_to(ids.reshape(-1) if ids.size in (1, size) else ids.reshape(-1)[:1], (size,))
    )
    white, constant = (g if g.size == size else np.full(size, g.mean()) for g in (gains.white, gains.constant))
    steady = figure.constant_square / np.maximum(figure.mean_square, np.finfo(np.float64).tiny)
    unsigned = (value.name or "") in quantizer.unsigned
    return TensorNoise(
        value.name or "",
        ids,
        np.maximum(figure.high, 0.0),
        np.maximum(-figure.low, 0.0),
        white * occupied,
        quantizer.unsigned_levels if unsigned else quantizer.activation_levels,
        quantizer.symmetric and not unsigned,
        CUT * white + CUT_STEADY * steady * np.maximum(constant - white, 0.0),
    )
