"""What equalization could do for a model: the run up to the solver, and nothing after it.

Spread and noise come from the functions the run itself uses, so that what is predicted is what would be done.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import calibrate, target
from equiquant.calibrate import SampleStream, SampleView
from equiquant.calibrate.data.feeds import batch_size
from equiquant.equalization import LayerSpread, ScaleClasses, find_classes, plan_global, spread
from equiquant.equalization.builder import ClipSite
from equiquant.errors import DataError, EquiQuantError
from equiquant.graph import query
from equiquant.io import LoadedModel, input_specs
from equiquant.numerics.scales.noise import NoiseTerm, objective
from equiquant.numerics.statistics.sqnr import decibels
from equiquant.pipeline.measuring.judging import affordable_feeds
from equiquant.pipeline.network.folding import canonical_form, hardware_form
from equiquant.pipeline.scales.solving import solve
from equiquant.recipe import Recipe
from equiquant.report import Held, LayerOutlook, Outlook, TensorOutlook

__all__ = ["foresee"]

Array = npt.NDArray[Any]

SECONDS = 0.5  # of float inference each pass over the samples may cost
MOST_FEEDS = 8


def foresee(loaded: LoadedModel, data: Any, recipe: Recipe) -> Outlook | str:
    """Return what equalization could do for a model, or why that cannot be told.

    Args:
        loaded: A float model; it is not changed.
        data: Samples, see `calibrate.open_samples`; None makes inputs up.
        recipe: The quantization to predict for.

    Raises:
        DataError: The data cannot be used.
    """
    try:
        with calibrate.open_samples(data, input_specs(loaded.model), recipe, loaded.model) as stream:
            ranges = "minmax" if recipe.calibration == "noise" else recipe.calibration  # clipping them comes after
            return _foresee(
                loaded, stream, recipe.replace(cle=True, cle_method="auto", clip_mode="exact", calibration=ranges)
            )
    except DataError:
        if data is not None:
            raise
        return "this model needs real samples; give some with --data"
    except EquiQuantError as error:
        return str(error)


def _foresee(loaded: LoadedModel, stream: SampleStream, recipe: Recipe) -> Outlook:
    model = loaded.model.clone()
    canonical_form(model, recipe, optimize=recipe.optimize)
    recipe = hardware_form(model, recipe)
    affordable = affordable_feeds(model, stream, SECONDS)
    samples = SampleView(stream, 0, stream.count_up_to(max(1, min(MOST_FEEDS, affordable))))
    classes = find_classes(model)
    survey = target.survey(model, recipe)
    plans, terms = solve(model, classes, recipe, survey, samples, affordable)
    scales = {plan.method: plan.z for plan in plans}
    before, after = scales["none"], scales.get("global", plans[-1].z)
    predicted = {name: decibels(1.0, objective(terms, z)) for name, z in scales.items()} if terms else {}
    if terms and classes.clips:
        predicted["per_channel"] = decibels(1.0, objective(terms, plan_global(terms, after, None).z))
    noise = _noise_of_layers(terms, before, after)
    clips = _clip_of_classes(classes, after)
    outputs = {query.label(slot.node): slot.node.outputs[0] for slot in classes.slots if slot.role == "weight"}
    layers = (
        _layer(
            layer,
            noise.get(layer.node),
            _held(classes, outputs[layer.node], layer, clips),
            quantized=layer.node in survey.nodes,
        )
        for layer in spread(classes, after)
    )
    tensors = (
        TensorOutlook(term.name, decibels(1.0, term.exact(before)), decibels(1.0, term.exact(after)))
        for term in terms
        if term.kind == "activation"
    )
    return Outlook(
        preset=recipe.name,
        samples=sum(batch_size(feed) for feed in samples),
        synthetic=stream.synthetic,
        sqnr_db=predicted,
        layers=tuple(layers),
        tensors=tuple(tensors),
    )


def _noise_of_layers(terms: Sequence[NoiseTerm], before: Array, after: Array) -> dict[str, tuple[float, float]]:
    """Return the noise of every layer's weight and bias, before and after."""
    noise: defaultdict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for term in terms:
        if term.kind in ("weight", "bias"):
            old, new = noise[term.name]
            noise[term.name] = old + term.exact(before), new + term.exact(after)
    return dict(noise)


def _layer(
    layer: LayerSpread, noise: tuple[float, float] | None, held: tuple[Held, ...], *, quantized: bool
) -> LayerOutlook:
    return LayerOutlook(
        name=layer.node,
        op_type=layer.op_type,
        channels=layer.channels,
        free=layer.channels - sum(part.channels for part in held),
        spread_before=layer.before,
        spread_after=layer.after,
        quantized=quantized,
        sqnr_before_db=None if noise is None else decibels(1.0, noise[0]),
        sqnr_after_db=None if noise is None else decibels(1.0, noise[1]),
        held=held,
    )


def _clip_of_classes(classes: ScaleClasses, z: Array) -> dict[int, ClipSite]:
    """Return, for every class that a Clip(0, c) keeps from moving, that Clip."""
    return {int(index): site for site in classes.clips for index in np.unique(site.ids) if index != 0 and z[index] == 0}


def _held(
    classes: ScaleClasses, value: ir.Value, layer: LayerSpread, clips: Mapping[int, ClipSite]
) -> tuple[Held, ...]:
    """Say which output channels of a layer must keep their scale: the pinned ones, and those that reach a Clip."""
    pin = classes.pins.get(value)
    held = [Held(layer.channels - layer.free, pin.reason, pin.node)] if pin and layer.free < layer.channels else []
    ids = classes.values[value].reshape(-1)
    met = Counter(clips[int(index)] for index in ids if int(index) in clips)
    for site, count in met.items():
        reason = f"values reach the bound of Clip(0, {site.bound:g})"
        held.append(Held(count * layer.channels // ids.size, reason, query.label(site.node)))
    return tuple(held)
