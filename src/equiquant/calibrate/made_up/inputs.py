"""Inputs for a model that came without data: of sizes it runs with, such that its BatchNormalizations know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import onnx_ir as ir

from equiquant.calibrate.data.sample_axis import static_batch
from equiquant.calibrate.data.source import Source, numbered
from equiquant.calibrate.made_up.distilling import distilled
from equiquant.calibrate.made_up.matching import matching_texture
from equiquant.calibrate.made_up.sizing import sized
from equiquant.calibrate.made_up.synthetic import SYNTHETIC_SAMPLES, synthetic_feeds
from equiquant.calibrate.made_up.units import guessed_units
from equiquant.calibrate.made_up.vocabularies import vocabularies
from equiquant.canonical import settle_constants
from equiquant.errors import ModelError
from equiquant.io.runtime import InputSpec
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.recipe import Recipe

__all__ = ["made_up"]


def made_up(
    inputs: Sequence[InputSpec],
    recipe: Recipe,
    model: ir.Model | None,
    *,
    known: Mapping[str, DyadicHistogram],
    distill: bool,
    progress: Callable[[int, int], None] | None,
) -> Source:
    """Return a source of made-up inputs.

    Args:
        inputs: The model's inputs.
        recipe: Gives `seed`, and with `calibration_samples` how many at most.
        model: The model as it came; None for inputs of the usual sizes and units.
        known: How real float inputs are distributed, by name, as far as that is known: nothing is guessed of these.
        distill: Move them until all BatchNormalizations see what they were trained on, where there are any.
        progress: Called with the number of steps of that done, and of all; None for nobody.

    Raises:
        DataError: An input has a type that cannot be made up, or no size will do.
    """
    specs = inputs if model is None else sized(model, inputs, recipe.seed)
    model = None if model is None else _settled(model)
    entries = {} if model is None else vocabularies(model)
    texture, units = None, ""
    if model is not None and len(specs) == 1 and not known:
        texture = matching_texture(model, specs[0], recipe.seed)
        if texture is None and (guess := guessed_units(model, specs[0], recipe.seed)):
            texture, units = guess
    count = min(recipe.calibration_samples or SYNTHETIC_SAMPLES, SYNTHETIC_SAMPLES)
    feeds = partial(synthetic_feeds, specs, recipe.seed, count, texture, entries, known)
    found = distilled(model, feeds(), progress) if distill and model is not None else None
    batch = static_batch(specs)
    if found is None:
        made = -(-count // batch) * batch
        return Source(lambda: numbered(feeds()), replayable=False, synthetic=True, units=units, count=made)
    kept = len(found.feeds) * batch
    return Source(lambda: numbered(found.feeds), replayable=True, synthetic=True, distilled=found, count=kept)


def _settled(model: ir.Model) -> ir.Model | None:
    """Return a copy that shows what is constant; None where its operator set cannot be raised."""
    copy = model.clone()
    try:
        settle_constants(copy)
    except ModelError:
        return None
    return copy
