"""What becomes of ReLU6: changed as the recipe asks, or kept, which rests on what its channels reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization import ScaleClasses, replace_clip6, split_clips
from equiquant.graph import query
from equiquant.graph.edit import infer_shapes
from equiquant.numerics.statistics.sqnr import least_db
from equiquant.pipeline.measuring.judging import Judge, Yardstick, fitted_feeds
from equiquant.pipeline.scales.clip_reach import ClipReach, clip_reach
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe
from equiquant.verify import Comparison, Reference, equivalence

__all__ = [
    "check_clips",
    "float_reach",
    "prepare_clips",
    "replaces_clips",
    "tell_of_soft",
    "warn_of_clips",
    "warn_of_strays",
]

Array = npt.NDArray[Any]

SAME_DB = 100.0  # of signal over change: no value passed 6, what differs is float noise
AUDIBLE_DB = 40.0  # of signal over change: with more, float outputs are the same, as far as 8 bits let one tell
DROWNED_DB = 10.0  # below the noise of the quantized model: a tenth of it
TRUSTED = 0.005  # share of channels that stray: with more of them float outputs were seen to change (docs/cle.md)


def replaces_clips(recipe: Recipe) -> bool:
    """True if every ReLU6 is to become a ReLU, which changes the function."""
    return recipe.cle and (recipe.replace_clip6_relu or recipe.clip_mode == "relu")


def prepare_clips(state: RunState, model: ir.Model, reference: Reference, judge: Judge | None) -> Reference:
    """Change the Clips as the recipe asks; return the outputs that equalization must keep.

    Args:
        state: The run.
        model: The folded float model, changed in place.
        reference: Its outputs.
        judge: One of the model as it is; None only where the recipe replaces no Clip.
    """
    recipe = state.recipe
    reference = reference.first(fitted_feeds(model, state.stream))  # others may drive a ReLU6 farther
    if replaces_clips(recipe):
        assert judge is not None
        return _replace_clip6(state, model, reference, judge)
    if recipe.cle and recipe.clip_mode.startswith("per_channel"):
        count = recipe.clip_mode.partition(":")[2]
        state.decisions += split_clips(model, int(count) if count else None)
    return reference


def _replace_clip6(state: RunState, model: ir.Model, reference: Reference, judge: Judge) -> Reference:
    """Replace ReLU6 by ReLU as asked, and say what that alone costs."""
    replaced = replace_clip6(model)
    if not replaced:
        return reference
    state.decisions += replaced
    infer_shapes(model)
    error = reference.measure(model).error
    left = judge.yardstick.each_db(model)
    damage, worst = least_db(left.values()), min(left, key=left.__getitem__, default="")
    state.equalization["replace_clip6_relu"] = {"replaced": len(replaced), "error": error, "sqnr_db": damage}
    if error <= state.recipe.equivalence_tolerance and damage >= SAME_DB:
        return reference
    made_up = " on made-up inputs" if state.stream.synthetic else ""
    state.warn(
        f"ReplaceClip6Relu replaced {len(replaced)} Clip(0, 6) by Relu, which changed the float function:"
        f" {damage:.1f} dB of '{worst}' are left before any rounding{made_up}. Set it to False to keep the function."
    )
    return Reference.of(model, reference.feeds)


def float_reach(
    state: RunState, model: ir.Model, classes: ScaleClasses, progress: Callable[[float], None]
) -> ClipReach:
    """Return how far the channels under a Clip reach: in a float model that is handed on it holds for every sample.

    Args:
        state: The run.
        model: The folded float model.
        classes: Its scale classes.
        progress: Called with the share of the samples that is done, where their number is known.
    """
    known = state.stream.known
    told = (lambda done: progress(min(1.0, done / known))) if known else (lambda _: None)
    reach = clip_reach(model, classes, state.recipe, state.stream, told)
    if reach.largest:
        reason = (
            f"a channel moves as far as values {1 + reach.margin:.3g} times those of the {reach.samples} samples stay"
            " below the bound; per_channel would keep the function on any input"
        )
    else:
        reason = (
            "without data nobody knows which channels stay below the bound; they keep their scale. Give samples, or use"
            " per_channel, which keeps the function on any input"
        )
    nodes = [query.label(site.node) for site in classes.clips]
    state.decisions += [Decision("equalize", "clip_bound", node, bool(reach.largest), reason) for node in nodes]
    return reach


def warn_of_strays(state: RunState, classes: ScaleClasses, reach: ClipReach, z: Array) -> None:
    """Say how far the samples given can be trusted to show what the channels under a Clip reach."""
    moved, strayed = reach.strayed(classes, z)
    state.equalization["clip_strays"] = {"moved": moved, "strayed": strayed}
    if strayed > TRUSTED * moved:
        state.warn(
            f"One half of the samples drove {strayed} of the {moved} channels that move under a Clip so much farther"
            " than the other that samples not given may drive some to its bound: there the equalized model would"
            " differ. More samples, or clip_mode='per_channel', keep the function."
        )


def tell_of_soft(state: RunState, model: ir.Model, equalized: ir.Model, proven: float, judge: Judge | None) -> None:
    """Say how far `soft` changed the function: on what it was proven on, or on samples held back, which may reach more.

    Args:
        state: The run.
        model: The folded float model.
        equalized: The same with the scales.
        proven: The largest change on the samples of the proof.
        judge: One of the model; None to make one.
    """
    judge = judge or Judge(model, state.stream, state.recipe)
    error = max(proven, equivalence(model, equalized, list(judge.held)).error)
    state.equalization["equivalence_error"] = error
    if error > state.recipe.equivalence_tolerance:
        state.warn(
            f"ClipMode 'soft' moved channels that reach a Clip's bound, which changed the float output by {error:.1e}"
            " of its magnitude. Use 'exact' or 'per_channel' to keep the function."
        )


def check_clips(state: RunState, model: ir.Model, equalized: ir.Model, judge: Judge) -> None:
    """Measure what of the float function is left on samples the scales were not found on: they may reach a bound."""
    if judge.rest is None:
        return
    replaced = "replace_clip6_relu" in state.equalization  # the judge compares with the network before that
    with state.stages("prove"):
        yardstick = Yardstick(model, judge.held) if replaced else judge.yardstick
        state.clips_left = yardstick.each_db(equalized)
    state.equalization["clip_sqnr_db"] = least_db(state.clips_left.values())


def warn_of_clips(state: RunState, quality: Comparison) -> None:
    """Warn of the output that Clips changed most, if that is a part of the noise of the quantized model.

    Args:
        state: The run, finished but for its report.
        quality: The result, compared with the float model.
    """
    found = {tensor.name: tensor.error.sqnr_db for tensor in quality.tensors}
    found |= {output.name: output.error.sqnr_db for output in quality.outputs}
    heard = {name: left for name, left in state.clips_left.items() if left < found.get(name, math.inf) + DROWNED_DB}
    name, left = min(heard.items(), key=lambda item: item[1], default=("", math.inf))
    if left < AUDIBLE_DB:
        state.warn(
            f"On samples that the scales were not found on, {left:.1f} dB of the float network's '{name}' are left:"
            " channels that stayed below a Clip's bound before reach it there. More samples, or --clip-mode"
            " per_channel, keep the function."
        )
