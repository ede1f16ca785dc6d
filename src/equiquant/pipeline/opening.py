"""How a run begins: what it is given to work with, what follows from that, and what the user must know of it."""

from __future__ import annotations

import os
from pathlib import Path

from equiquant import calibrate
from equiquant.calibrate import SampleStream
from equiquant.decisions import Decision
from equiquant.errors import DataError
from equiquant.io import LoadedModel
from equiquant.pipeline.idle_options import idle_options
from equiquant.pipeline.state import Progress, RunState
from equiquant.recipe import ImageOptions, Recipe
from equiquant.report import Stages

__all__ = ["begun"]

NO_DATA = (
    "No calibration data was given: ranges come from made-up inputs, and accuracy will suffer."
    " Give a few dozen real samples (data=…, --data PATH, or a calibration_data_reader)."
)
NO_IMAGES = "The image options say how image files become inputs; the data given are arrays, and taken as they are."
NO_CLIPPING = "made-up inputs do not say which large values are rare: ranges reach them all ('minmax', not 'noise')"


def begun(
    loaded: LoadedModel,
    recipe: Recipe,
    stream: SampleStream,
    stages: Stages,
    progress: Progress,
    *,
    quantize: bool,
    stats_file: str | os.PathLike[str] | None,
) -> RunState:
    """Return the state of a run that is to work with these samples, or with the statistics of a file if it exists.

    Raises:
        DataError: The file cannot be read, or its statistics are of made-up inputs and there are real ones.
    """
    file = None if stats_file is None else Path(stats_file)
    recalled = calibrate.load_stats(file) if file is not None and file.exists() else None
    made_up = stream.synthetic if recalled is None else recalled.synthetic
    if made_up and not stream.synthetic:
        raise DataError(
            f"The statistics in {file} are of made-up inputs. Name another file, to calibrate with the data given."
        )
    unclipped = quantize and made_up and stream.distilled is None and recipe.calibration == "noise"
    if unclipped:
        recipe = recipe.replace(calibration="minmax")
    path = str(loaded.path) if loaded.path else None
    state = RunState(loaded.sha256, path, recipe, stream, stages, progress, quantize, file, recalled)
    if unclipped:
        state.decisions.append(Decision("calibrate", "no_data", "whole network", False, NO_CLIPPING))
    if stream.distilled is not None:
        state.decisions.append(Decision("calibrate", "distill", "whole network", True, _fitted(stream.distilled)))
    if stream.units:
        state.decisions.append(Decision("calibrate", "units", "whole network", True, f"made-up images {stream.units}"))
    if stream.skipped:
        reason = f"{stream.skipped} files in the folder are of no kind that is read"
        state.decisions.append(Decision("calibrate", "data", "calibration data", False, reason))
    if recalled is not None:
        state.decisions.append(Decision("calibrate", "statistics", "whole network", True, f"taken from {file}"))
    if made_up and quantize and not recipe.weight_only:
        state.warn(NO_DATA)
    if not stream.synthetic and not stream.images and recipe.image != ImageOptions():
        state.warn(NO_IMAGES)
    if quantize and (idle := idle_options(recipe)):
        state.warn(" ".join(f"{name} has no effect: {reason}." for name, reason in idle.items()))
    return state


def _fitted(found: calibrate.Distilled) -> str:
    return (
        f"{len(found.feeds)} made-up inputs were moved until the BatchNormalizations see the means and deviations they"
        f" were trained on: {found.before:.2g} deviations off before, {found.after:.2g} after"
    )
