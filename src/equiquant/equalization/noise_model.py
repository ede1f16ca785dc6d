"""Build the noise objective of a network: one term a quantized weight, bias and activation tensor.

The terms follow the quantizer that comes after: which nodes and tensors are quantized, with how many levels, symmetric
or not, per tensor or per channel, with an int8 bias or an int32 one (whose rounding does not count).

What a range cuts off an activation has one sign, fills whole regions, and many channels lose theirs in the same places:
how much more of it is felt than of independent noise is measured with the gains (docs/cle.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward import Ends, Gains
from equiquant.equalization.builder import ClipSite
from equiquant.equalization.classes import ScaleClasses
from equiquant.equalization.layer_noise import constant_term, layer_terms, operands
from equiquant.equalization.quantizer_model import QuantizerModel
from equiquant.equalization.saturation import UNLIMITED, saturation
from equiquant.graph import query
from equiquant.graph.bounds import value_bounds
from equiquant.numerics.parallel import parallel
from equiquant.numerics.ranges.noise import COHERENCE, RangeNoise, WeightRange
from equiquant.numerics.scales.coupling import grouped
from equiquant.numerics.scales.noise import NoiseTerm, TensorNoise, WeightNoise
from equiquant.numerics.statistics.figures import ChannelFigures
from equiquant.numerics.statistics.sketch import MagnitudeSketch
from equiquant.numerics.statistics.tail import beyond, untold

__all__ = ["Sketches", "cut_ends", "noise_terms", "range_terms"]

Array = npt.NDArray[Any]
LEAST_CUT = 2.0  # gain of what a range cuts off, over that of independent noise: a few samples may tell less
CUT_POWER = 0.7  # of what is measured beyond that: it is of first order, and of channels that end together
CUT_AT = 0.5  # of each channel's largest values: what lies beyond is taken for what a range cuts off
Sketches = tuple[MagnitudeSketch, MagnitudeSketch]
"""The positive and the negative side of a tensor."""


def noise_terms(
    classes: ScaleClasses,
    figures: Mapping[str, ChannelFigures],
    gains: Mapping[str, Gains],
    quantizer: QuantizerModel,
    sketches: Mapping[str, Sketches] | None = None,
) -> list[NoiseTerm]:
    """Return the terms of J for a model as it is now (z = 0), each tensor with a range of its own.

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
    for found in parallel(lambda s: layer_terms(s, bias_of.get(s.node), figures, gains, quantizer), layers):
        terms += found
    rounded = (constant_term(s, figures, gains, quantizer) for s in operands(classes, quantizer.nodes))
    terms += [term for term in rounded if term is not None]
    wanted = set(quantizer.tensors)
    seen = _before_clips(classes)
    for value in classes.values:
        name = value.name or ""
        if name in wanted and name in figures and name in gains:
            sketch = (sketches or {}).get(seen.get(name, name))
            occupied = 1.0 if sketch is None else _occupied(sketch, clipped=name in seen)
            terms.append(_tensor_term(value, classes, figures[name], gains[name], occupied, quantizer))
    return terms


def _before_clips(classes: ScaleClasses) -> dict[str, str]:
    """Return what goes into each Clip(0, c), by what comes out of it."""
    return {query.name_of(site.node.outputs[0]): query.name_of(site.node.inputs[0]) for site in classes.clips}


def _occupied(sketches: Sketches, *, clipped: bool) -> Array:
    """Return the share of each channel's values that are not 0, (C,); of the positive ones if a Clip follows."""
    positive, negative = (side.share.sum(axis=1) for side in sketches)
    return np.asarray(positive if clipped else positive + negative)


def range_terms(
    classes: ScaleClasses,
    terms: Sequence[NoiseTerm],
    sketches: Mapping[str, Sketches],
    ends: Mapping[str, Ends],
) -> tuple[list[WeightRange], list[RangeNoise]]:
    """Return the same noise for a quantizer that may clip: weights number by number, tensors by their sketches.

    Args:
        classes: The scale classes.
        terms: From `noise_terms`, each with a range of its own.
        sketches: Both sides of every rounded tensor, and of what goes into a Clip, by name.
        ends: From `cut_ends`, of every rounded tensor.
    """
    slots = {query.label(s.node): s for s in classes.slots if s.role == "weight"}
    clips = {query.name_of(site.node.outputs[0]): site for site in classes.clips}
    signed = {query.name_of(slot.node.outputs[0]) for slot in classes.layers}
    weights: list[WeightRange] = []
    tensors: list[RangeNoise] = []
    for term in terms:
        if isinstance(term, WeightNoise):
            slot = slots[term.name]
            array = query.constant(slot.value)
            assert array is not None
            weights.append(WeightRange(term, grouped(array, slot.groups, slot.out_axis)))
        elif term.kind == "bias":
            share = np.ones((term.ids.size, 1))
            used = [side for side in term.sides() if side.any()] or term.sides()[:1]
            sides = tuple((side[:, None], share, side) for side in used)
            tensors.append(RangeNoise(term.name, term.ids, term.gain, term.clip_gain, sides, term.levels, kind="bias"))
        else:
            site = clips.get(term.name)
            source = term.name if site is None else query.name_of(site.node.inputs[0])
            if source in sketches:
                given = sketches[source], ends[term.name].most
                tensors.append(_range(term, *given, site, signed=term.name in signed))
    return weights, tensors


def cut_ends(
    classes: ScaleClasses, figures: Mapping[str, ChannelFigures], sketches: Mapping[str, Sketches]
) -> dict[str, Ends]:
    """Return where what a range may cut off each tensor begins, and beyond what nothing is or is heard.

    A Clip(0, c) bounds what comes out of it by itself.

    Args:
        classes: The scale classes of the model as it is now.
        figures: Per-channel figures of the tensors that will be rounded, by name.
        sketches: Both sides of tensors, by name; one without, that a Clip makes, is heard whole.
    """
    known = {name: figures[name] for name in figures.keys() & sketches.keys()}
    level = saturation(classes.values, {name: (f.low.min(), f.high.max()) for name, f in known.items() if f.low.size})
    values, clipped = {query.name_of(v): v for v in classes.values}, _before_clips(classes)
    ends = {}
    for name, figure in figures.items():
        least, largest = (-np.inf, np.inf) if name in clipped else value_bounds(values[name])
        heard = level.get(name, UNLIMITED)
        above, below = most = min(heard[0], largest), min(heard[1], -least)
        high, low = np.clip(figure.high, 0.0, above), np.clip(figure.low, -below, 0.0)
        ends[name] = Ends(CUT_AT * low, CUT_AT * high, most)
    return ends


def _range(
    term: TensorNoise, sketches: Sketches, level: tuple[float, float], site: ClipSite | None, *, signed: bool
) -> RangeNoise:
    """Return a tensor with what its range may cut off; if `signed`, its values may have either sign.

    A symmetric range has room on both sides anyway.
    """
    crossing = signed and not term.symmetric
    others = [
        other if crossing and untold(side) else None for side, other in zip(sketches, sketches[::-1], strict=True)
    ]
    sides = [_side(*given) for given in zip(sketches, others, level, strict=True)]
    if site is not None or not sides[1][2].any():
        sides = sides[:1]
    if term.symmetric:
        values, share = (np.concatenate([side[k] for side in sides], axis=1) for k in (0, 1))
        sides = [(values, share, np.max([side[2] for side in sides], axis=0))]
    bound, bound_id = (np.inf, 0) if site is None else (site.bound, int(site.bound_id))
    return RangeNoise(term.name, term.ids, term.gain, term.clip_gain, tuple(sides), term.levels, bound, bound_id)


def _side(side: MagnitudeSketch, other: MagnitudeSketch | None, level: float) -> tuple[Array, Array, Array]:
    """Return each channel's magnitudes up to its largest and what is to come beyond, their shares, and the largest.

    All that lies beyond where its readers are level counts as if it lay there. Where the other side has to tell
    of this one, the largest is that of what is to come.
    """
    values, (further, rest) = np.minimum(side.values, side.high[:, None]), beyond(side, other)
    magnitudes = np.minimum(np.column_stack([values, further]), level)
    largest = side.high if other is None else further.max(axis=1)
    return magnitudes, np.column_stack([side.share, rest]), np.minimum(largest, level)


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
    white = gains.white if gains.white.size == size else np.full(size, gains.white.mean())
    cut = COHERENCE if gains.cut is None else LEAST_CUT * max(gains.cut / LEAST_CUT, 1.0) ** CUT_POWER
    unsigned = (value.name or "") in quantizer.unsigned
    return TensorNoise(
        value.name or "",
        ids,
        np.maximum(figure.high, 0.0),
        np.maximum(-figure.low, 0.0),
        white * occupied,
        quantizer.unsigned_levels if unsigned else quantizer.activation_levels,
        quantizer.symmetric and not unsigned,
        cut * white,
    )
