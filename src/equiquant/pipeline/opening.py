"""How a run begins: what it is given to work with, what follows from that, and what the user must know of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from equiquant import calibrate
from equiquant.calibrate import SampleStream
from equiquant.calibrate.data.feeds import batch_size
from equiquant.calibrate.data.sample_axis import batch_input
from equiquant.decisions import Decision
from equiquant.errors import DataError
from equiquant.graph.randomness import refuse_random
from equiquant.io import Feed, LoadedModel, input_specs
from equiquant.io.runtime import InputSpec
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.pipeline.idle_options import idle_options
from equiquant.pipeline.state import Progress, RunState
from equiquant.recipe import ImageOptions, Recipe
from equiquant.report import Stages

__all__ = ["begun", "known_inputs", "recalled_statistics"]

PLAIN = ImageOptions()
NORMALIZING: dict[str, Any] = {name: getattr(PLAIN, name) for name in ("mean", "std", "scale")}
NO_DATA = (
    "No calibration data was given: ranges come from made-up inputs, and accuracy will suffer."
    " Give a few dozen real samples (data=…, --data PATH, or a calibration_data_reader)."
)
NO_IMAGES = "The image options say how image files become inputs; the data given are arrays, and taken as they are."
BYTES = "The model takes images as bytes: mean, std and scale do nothing, for it must normalize them itself."
COMPARED, FAR = 4, 2.0  # samples, and times what the statistics say of an input
ALONE = (
    "There is a single calibration sample: ranges, scales and the figures of this run rest on it, and other samples may"
    " keep far less. Give a few dozen."
)
ONE_SAMPLE = "biases are not corrected: a single sample would be all they are right for. Give a few dozen"
NO_CLIPPING = "made-up inputs do not say which large values are rare: ranges reach them all ('minmax', not 'noise')"


def recalled_statistics(
    recipe: Recipe, stats_file: str | os.PathLike[str] | None, *, quantize: bool
) -> calibrate.TensorStats | None:
    """Return the statistics of a file, None where there is none or it is not asked for.

    Raises:
        DataError: The file cannot be read.
    """
    if stats_file is None or not Path(stats_file).exists() or (quantize and recipe.weight_only):
        return None  # with weights alone there is nothing to recall
    return calibrate.load_stats(stats_file)


def known_inputs(specs: Sequence[InputSpec], stats: calibrate.TensorStats | None) -> dict[str, DyadicHistogram]:
    """Return how real float inputs are distributed, by name, as far as statistics tell."""
    if stats is None or stats.synthetic:
        return {}
    found = {spec.name: stats.histogram(spec.name) for spec in specs if spec.name in stats.tensors}
    return {name: histogram for name, histogram in found.items() if histogram is not None and histogram.total}


def begun(
    loaded: LoadedModel,
    recipe: Recipe,
    stream: SampleStream,
    stages: Stages,
    progress: Progress,
    *,
    quantize: bool,
    stats_file: str | os.PathLike[str] | None,
    recalled: calibrate.TensorStats | None,
) -> RunState:
    """Return the state of a run that is to work with these samples, or with the statistics recalled from a file.

    Raises:
        DataError: The statistics are of made-up inputs and there are real ones.
        ModelError: The model draws random numbers.
    """
    refuse_random(loaded.model)
    file = None if stats_file is None else Path(stats_file)
    made_up = stream.synthetic if recalled is None else recalled.synthetic
    if made_up and not stream.synthetic:
        raise DataError(
            f"The statistics in {file} are of made-up inputs. Name another file, to calibrate with the data given."
        )
    unclipped = quantize and made_up and stream.distilled is None and recipe.calibration == "noise"
    if unclipped:
        recipe = recipe.replace(calibration="minmax")
    given = [] if stream.synthetic else stream.first(COMPARED)
    alone = len(given) == 1 and batch_size(given[0]) == 1
    uncorrected = quantize and alone and recipe.bias_correction and not recipe.weight_only
    if uncorrected:
        recipe = recipe.replace(bias_correction=False)
    path = str(loaded.path) if loaded.path else None
    state = RunState(loaded.sha256, path, recipe, stream, stages, progress, quantize, file, recalled)
    if unclipped:
        state.decisions.append(Decision("calibrate", "no_data", "whole network", False, NO_CLIPPING))
    if uncorrected:
        state.decisions.append(Decision("refine", "no_data", "whole network", False, ONE_SAMPLE))
    if stream.distilled is not None:
        state.decisions.append(Decision("calibrate", "distill", "whole network", True, _fitted(stream.distilled)))
    if stream.units:
        state.decisions.append(Decision("calibrate", "units", "whole network", True, f"made-up images {stream.units}"))
    if stream.skipped:
        reason = f"{stream.skipped} files in the folder are of no kind that is read"
        state.decisions.append(Decision("calibrate", "data", "calibration data", False, reason))
    _warn_of_no_variety(state, given)
    _warn_of_large_batch(state, given, input_specs(loaded.model))
    if recalled is not None:
        _warn_of_other_data(state, given, recalled)
        state.decisions.append(Decision("calibrate", "statistics", "whole network", True, f"taken from {file}"))
    if made_up and quantize and not recipe.weight_only:
        state.warn(NO_DATA)
    told = alone if recalled is None else recalled.samples == 1 and not recalled.synthetic
    if told and quantize and not recipe.weight_only:
        state.warn(ALONE)
    if not stream.synthetic and not stream.images and recipe.image != PLAIN:
        state.warn(NO_IMAGES)
    bytes_only = {spec.dtype for spec in input_specs(loaded.model)} == {"uint8"}
    if stream.images and bytes_only and recipe.image != replace(recipe.image, **NORMALIZING):
        state.warn(BYTES)
    if idle := idle_options(recipe, stored=file is not None):
        state.warn(" ".join(f"{name} has no effect: {reason}." for name, reason in idle.items()))
    return state


def _warn_of_no_variety(state: RunState, feeds: Sequence[Feed]) -> None:
    """Say where the first samples are constant, as of a preprocessing that went wrong, or all the same."""
    arrays = [x for feed in feeds for x in feed.values() if x.size > 1]
    if any(x.dtype.kind == "f" for x in arrays) and all((x == x.flat[0]).all() for x in arrays):
        which = "calibration sample is" if len(feeds) == 1 else f"{len(feeds)} calibration samples are"
        state.warn(
            f"The first {which} constant, a single value each, which tells no range. Look at how they are prepared."
        )
    elif len(feeds) == COMPARED and _alike(feeds[0], feeds[1:]):
        state.warn(f"The first {COMPARED} calibration samples are all the same. Give different ones.")


def _warn_of_large_batch(state: RunState, feeds: Sequence[Feed], specs: Sequence[InputSpec]) -> None:
    """Say where the limit of samples lies within the first feed, whose open first axis may be no batch at all."""
    limit, name = state.recipe.calibration_samples, batch_input(specs)
    if not feeds or limit is None or any(spec.name == name and spec.shape[0] is not None for spec in specs):
        return
    if 1 < limit < (count := batch_size(feeds[0])):
        state.warn(
            f"calibration_samples={limit} stops after the first feed: axis 0 of '{name}', {count} there,"
            " is taken for a batch of samples. If it is something else, leave the limit out and give fewer feeds."
        )


def _alike(first: Feed, others: Sequence[Feed]) -> bool:
    return all(feed.keys() == first.keys() and np.array_equal(feed[n], x) for feed in others for n, x in first.items())


def _warn_of_other_data(state: RunState, feeds: Sequence[Feed], recalled: calibrate.TensorStats) -> None:
    """Say where samples go far beyond those that the statistics of the file were collected from."""
    for name in feeds[0] if feeds else ():
        known, values = recalled.tensors.get(name), [feed[name] for feed in feeds if feed[name].size]
        if known is None or not values:
            continue
        reach, told = max(float(np.abs(array).max()) for array in values), max(-known.low, known.high)
        if reach > FAR * told:
            state.warn(
                f"'{name}' reaches {reach:.3g} in the data, {told:.3g} in the statistics of"
                f" {state.stats_file}, which are used: they are of other data. Name another file, to calibrate anew."
            )


def _fitted(found: calibrate.Distilled) -> str:
    return (
        f"{len(found.feeds)} made-up inputs were moved until the BatchNormalizations see the means and deviations they"
        f" were trained on: {found.before:.2g} deviations off before, {found.after:.2g} after"
    )
