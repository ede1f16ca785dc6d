"""Take the equalization from a file of statistics: the same scales for the same model, without the data.

The statistics are those of the equalized model, so its scales belong beside them. With the recipe they were found with,
the ranges the solver chose are taken too; with one that decides them otherwise every range comes from the statistics,
those of `noise` by least squared error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from equiquant.calibrate import AppliedScales, model_hash
from equiquant.decisions import Decision
from equiquant.errors import DataError
from equiquant.hardware import FIELDS
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe

__all__ = ["new_scales", "ranges_fit", "recalled_scales", "solves"]

REQUEST = ("cle", "cle_method", "cle_steps", "cle_append_bias", "clip_mode", "replace_clip6_relu", "optimize")
ACCEPTED = ("cle_accept", "equivalence_tolerance")  # which scales a run takes of those it finds
RESULT = ("name", "bias_correction", "weight_rounding", "avoid_overflow", *ACCEPTED)
SAMPLES = ("calibration_samples", "calibration_memory", "exact_histograms", "image", "seed")
RAISED = ("keep_float", "int16", "target_sqnr", "raise_to")  # chosen in a network solved as if none were raised
BESIDES = frozenset((*RESULT, *SAMPLES, *RAISED))
"""Fields of the recipe that do not decide the solver's ranges, given the scales; bias correction hardly does."""


def solves(recipe: Recipe) -> bool:
    """True if a solver chooses scales or ranges."""
    return recipe.cle or recipe.calibration == "noise"


def new_scales(model: ir.Model, recipe: Recipe) -> AppliedScales:
    """Return the record of an equalization that is still to be found.

    Args:
        model: The folded float model, not equalized.
        recipe: What is asked for.
    """
    return AppliedScales(model_hash(model), _request(recipe), _whole(recipe), "none", 0, np.zeros(0))


def _request(recipe: Recipe) -> str:
    """Return the options that decide how a model is equalized, as JSON."""
    return json.dumps({field: getattr(recipe, field) for field in REQUEST})


def _whole(recipe: Recipe) -> str:
    return json.dumps(recipe.to_dict(), sort_keys=True)


def _deciding(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe that decide which ranges the solver chooses."""
    return {field: value for field, value in recipe.items() if field not in BESIDES}


def ranges_fit(scales: AppliedScales, recipe: Recipe) -> bool:
    """True if the solver chose, or left open, the ranges beside these scales as this recipe asks."""
    then = json.loads(scales.recipe or "{}")  # merged ones may have none
    return bool(then) and _deciding(then) == _deciding(json.loads(_whole(recipe)))


def _rewrites(then: Mapping[str, Any], recipe: Recipe) -> str:
    """Return those of an earlier recipe's fields that decide how the graph is written and differ from this one's."""
    now = json.loads(_whole(recipe))
    fields = FIELDS if then["npu"] and recipe.npu else FIELDS[:1]
    return ", ".join(f"{field}={then[field]!r}" for field in fields if then[field] != now[field])


def recalled_scales(state: RunState, model: ir.Model, recipe: Recipe) -> AppliedScales | None:
    """Return the equalization among the statistics that were there when the run began; None if there is none.

    Args:
        state: The run; gets a decision where other scales might have been accepted now.
        model: The folded float model, not equalized.
        recipe: What is asked for.

    Raises:
        DataError: It is of another model, or of the same one equalized by other options.
    """
    scales, file = None if state.recalled is None else state.recalled.scales, state.stats_file
    if scales is None or not solves(recipe):
        return None
    digest = model_hash(model)
    if scales.model_hash != digest:
        rewrites = scales.recipe and _rewrites(json.loads(scales.recipe), recipe)  # merged ones may have none
        if rewrites:
            raise DataError(
                f"The statistics in {file} are of another model, or of this one with {rewrites}, where its graph is"
                " written otherwise (docs/hardware.md). Ask for the same, or name another file and give the data."
            )
        raise DataError(
            f"The statistics in {file} are of another model: {scales.model_hash[:12]} instead of {digest[:12]}. Name"
            " another file and give the data."
        )
    asked, found = (json.loads(text) for text in (_request(recipe), scales.request))
    if asked != found:
        changed = ", ".join(f"{field}={found[field]!r}" for field in asked if asked[field] != found.get(field))
        raise DataError(
            f"The statistics in {file} are of the model equalized with {changed}. Ask for the same, or name"
            " another file and give the data."
        )
    then = json.loads(scales.recipe or "{}")  # merged ones may have none
    others = [field for field in ACCEPTED if then.get(field) not in (None, getattr(recipe, field))]
    if others:
        accepted = ", ".join(f"{field}={then[field]!r}" for field in others)
        reason = (
            f"those in {file} were accepted with {accepted} and stay; for others, name another file and give the data"
        )
        state.decisions.append(Decision("calibrate", "scales", "whole network", False, reason))
    return scales if ranges_fit(scales, recipe) else replace(scales, ranges=None)
