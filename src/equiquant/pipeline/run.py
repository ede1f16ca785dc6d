"""The run as one readable list: load, fold, equalize, prove, calibrate, choose, refine, insert, compare."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx_ir as ir

from equiquant import calibrate, qdq, target
from equiquant.calibrate import SampleView, TensorStats
from equiquant.decisions import Decision
from equiquant.equalization import Ranges
from equiquant.io import Feed, ModelLike, input_specs, load_model, memory_managed, model_bytes, release_memory
from equiquant.pipeline.measuring.judging import MOST_FITTED, MOST_HELD
from equiquant.pipeline.measuring.splitting import held_back
from equiquant.pipeline.naming import follow_names, made_by
from equiquant.pipeline.network.folding import canonical_form
from equiquant.pipeline.network.joining import join_in_float
from equiquant.pipeline.network.proving import check_upgrade, proof_samples, reference_kept
from equiquant.pipeline.network.rewriting import rewrite_for_npu
from equiquant.pipeline.opening import begun, known_inputs, recalled_statistics
from equiquant.pipeline.refinement.mixing import Mix, mix_precision
from equiquant.pipeline.refinement.refining import refined, refined_by_means
from equiquant.pipeline.refinement.storing import store_weights
from equiquant.pipeline.reusing import new_scales, ranges_fit, recalled_scales, solves
from equiquant.pipeline.scales.calibrating import statistics
from equiquant.pipeline.scales.clips import warn_of_clips
from equiquant.pipeline.scales.equalizing import Equalized, equalize, equalize_as
from equiquant.pipeline.scales.solving import chooses_ranges
from equiquant.pipeline.state import Progress, RunState
from equiquant.pipeline.telling.advising import warn_of_poor_quality
from equiquant.pipeline.telling.kernels import fit_kernels
from equiquant.pipeline.telling.lost_channels import warn_of_lost_channels
from equiquant.pipeline.telling.reporting import report_of
from equiquant.recipe import Recipe
from equiquant.report import Report, Stages, versions
from equiquant.target import QuantPlan
from equiquant.verify import Comparison, Reference, compare_models, compared_values

__all__ = ["Outcome", "run"]

QUALITY_FEEDS = 8  # feeds the quantized model is compared on
OUTPUT_FEEDS = 2  # feeds whose outputs a large float model leaves to be compared with
PER_TENSOR_BELOW = 50_000_000  # bytes of weights; above, the comparison is limited to these

NO_RANGES = "the statistics hold no ranges that were chosen with these options"
PAIRWISE = "cle_method 'pairwise' chooses no ranges"
TOO_LARGE = "the model is too large to choose the ranges of least noise"
NO_BETTER = "no ranges chosen for the least noise measured better"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run leaves.

    Attributes:
        model: The equalized float model, or the QDQ model.
        report: Everything that was decided and measured.
    """

    model: ir.Model
    report: Report


@memory_managed()
def run(
    source: ModelLike,
    recipe: Recipe,
    data: Any = None,
    *,
    quantize: bool = True,
    progress: Progress | None = None,
    stats_file: str | os.PathLike[str] | None = None,
) -> Outcome:
    """Turn a float model into an equalized, and unless `quantize` is off, quantized one.

    Args:
        source: The model; never changed.
        recipe: What to do.
        data: Calibration data, see `calibrate.open_samples`; None makes inputs up, with a warning.
        quantize: Insert Q/DQ; off, the result is the equalized float model.
        progress: Called with (stage, done, total).
        stats_file: Take the calibration statistics from this file if it exists, else save them there.

    Raises:
        EquiQuantError: The model, the data or the options cannot be used.
    """
    stages, progress = Stages(), progress or (lambda *_: None)
    with stages("load"):
        loaded, recalled = load_model(source), recalled_statistics(recipe, stats_file, quantize=quantize)
    specs = input_specs(loaded.model)
    distill = stats_file is None and not (recipe.weight_only and quantize)  # a file does not tell how close they came
    with stages("distill" if data is None else "load"):
        opened = calibrate.open_samples(
            data,
            specs,
            recipe,
            loaded.model,
            known=known_inputs(specs, recalled),
            distill=distill,
            progress=partial(progress, "distill"),
        )
    with opened as stream:
        state = begun(
            loaded, recipe, stream, stages, progress, quantize=quantize, stats_file=stats_file, recalled=recalled
        )
        model, given = _fold(state, loaded.model)
        del loaded
        if given.silent:
            state.warn(
                f"The float model's output '{given.silent[0]}' is NaN or infinite throughout the first samples: nothing"
                " can be compared with it. Look at how they are prepared, and at the model."
            )
        known = _known(state, model) if quantize else None
        if state.recipe.weight_only and quantize:
            return _store_weights(state, model, known)
        folded: ir.Model | None = model.clone()
        reference = given
        if quantize and state.recipe.npu:
            with state.stages("rewrite"):
                before = made_by(model, state.recipe)
                model, reference = rewrite_for_npu(state, model, given)
                follow_names(state, before, model)
        recipe = state.recipe  # as asked for: stages add to that of the state what they exclude
        if quantize:
            join_in_float(state, model)
        equalized = _rescaled(state, recipe, model, reference)
        model = equalized.model
        bounded = any(node.op_type == "Clip" for node in model.graph)  # which some samples may reach, others not
        if equalized.factors is None and known is not None and not bounded:
            folded = None  # it computes the same, and a second copy of large weights is not worth it
        release_memory()
        if not quantize:
            _sign(model, state)
            return Outcome(model, report_of(state))
        mix = mix_precision(state, folded or model, equalized)
        plan, stats = _plan(state, model, equalized.ranges, mix)
        if stream.synthetic and not stats.synthetic:
            model, plan = refined_by_means(state, model, plan, stats)
        else:
            model, plan = refined(state, folded or model, equalized, plan)
        plan = target.cpu_form(model, plan, target.target_of(recipe))
        warn_of_lost_channels(state, equalized.model, plan)
        state.decisions += plan.remarks
        quantized = model.clone()
        with state.stages("insert"):
            qdq.insert(quantized, plan)
            _sign(quantized, state)
        quality, feeds, held = _measure(state, folded or model, quantized, known)
        fit_kernels(state, quantized, quality, feeds)
        warn_of_clips(state, quality)
        warn_of_poor_quality(state, quality, plan.limits)
        return Outcome(quantized, report_of(state, plan, stats, quality, held=held))


def _store_weights(state: RunState, model: ir.Model, known: Reference | None) -> Outcome:
    """Store the weights alone as integers, with a scale a block: nothing to equalize, no ranges to calibrate."""
    if state.stats_file is not None:
        state.warn(f"Weights alone have no ranges to calibrate: {state.stats_file} is neither read nor written.")
    stored, rows = store_weights(state, model)
    _sign(stored, state)
    quality, feeds, held = _measure(state, model, stored, known)
    fit_kernels(state, stored, quality, feeds)
    warn_of_poor_quality(state, quality)
    return Outcome(stored, report_of(state, quality=quality, blocks=rows, held=held))


def _fold(state: RunState, model: ir.Model) -> tuple[ir.Model, Reference]:
    """Bring the graph into its canonical form, proven equal to the original; else keep the graph as it was."""
    state.progress("fold", 0, None)
    recipe = state.recipe
    with state.stages("fold"):
        original = model.clone()
        reference = Reference.of(original, proof_samples(state, model))
        done = canonical_form(model, recipe, optimize=recipe.optimize, quantize=state.quantize)
        kept = reference_kept(state, model, reference, "canonical")
        if kept is None:
            model, kept = original.clone(), reference
            done = canonical_form(model, recipe, optimize=False)
            check_upgrade(original, model, reference)
    state.decisions += done
    follow_names(state, made_by(original, state.recipe), model)
    del original
    release_memory()
    return model, kept


def _rescaled(state: RunState, recipe: Recipe, model: ir.Model, reference: Reference) -> Equalized:
    """Equalize the model as the recipe asks, ranges chosen with the scales where wanted, or as a file recalls it."""
    scales = recalled_scales(state, model, recipe) if state.quantize else None
    if state.stats_file is not None and solves(recipe):
        state.scales = scales or new_scales(model, recipe)
    found = Equalized(model, factors={} if state.approximated else None)
    if scales is not None:
        found = equalize_as(state, model, reference, scales)
    elif recipe.cle or (recipe.calibration == "noise" and state.recalled is None):
        found = equalize(state, model, reference)
    plain = found.ranges is None or state.equalization.get("method") in ("none", "pairwise", "global")
    held = None if scales is None or state.recalled is None else state.recalled.scales
    dropped = held is not None and held.ranges is not None and found.ranges is None and chooses_ranges(recipe, model)
    if state.quantize and (dropped or (recipe.calibration == "noise" and plain)):
        reason = _without_ranges(state, recipe, model)
        if found.ranges is not None:
            reason += ", but of tensors that show few values a channel"
        state.decisions.append(Decision("calibrate", "noise", "whole network", False, reason))
    return found


def _without_ranges(state: RunState, recipe: Recipe, model: ir.Model) -> str:
    """Say why no ranges were chosen by the noise they leave, and which are taken."""
    why = NO_BETTER if chooses_ranges(recipe, model) else PAIRWISE if recipe.cle_method == "pairwise" else TOO_LARGE
    if state.recalled is not None and not (state.recalled.scales and ranges_fit(state.recalled.scales, recipe)):
        why = NO_RANGES
    made_up = state.stream.synthetic if state.recalled is None else state.recalled.synthetic
    widest = made_up and recipe.calibration == "noise"
    voted = recipe.calibration == "minmse" and recipe.minmse_mode == "most_common"
    taken = "those of least squared error" + (" of most samples" if voted else "")
    taken = "the smallest and largest values" if widest else taken
    return f"{why}: {taken} are taken"


def _sign(model: ir.Model, state: RunState) -> None:
    """Write into the model what made it: the version, the exact recipe and the hash of the input."""
    model.producer_name, model.producer_version = "equiquant", versions()["equiquant"]
    model.metadata_props["equiquant.recipe"] = json.dumps(state.reported.to_dict())
    model.metadata_props["equiquant.input_sha256"] = state.input_sha256


def _plan(state: RunState, model: ir.Model, ranges: Ranges | None, mix: Mix) -> tuple[QuantPlan, TensorStats]:
    """Choose what is quantized and how, from the activations of the equalized model."""
    survey = target.survey(model, mix.recipe)
    with state.stages("calibrate"):
        chosen = ranges if state.stats_file is None else None  # a file must serve other options too
        stats = statistics(state, model, survey, target.missing(survey, chosen, synthetic=state.stream.synthetic))
    with state.stages("choose"):
        plan = target.choose(model, survey, stats, mix.recipe, ranges)
    kept = {**plan.kept_float, **state.joined, **mix.reasons}
    state.decisions += [Decision("target", "keep_float", node, False, why) for node, why in kept.items()]
    if plan.limits is not None and plan.limits.broken:
        first = plan.limits.broken[0]
        state.warn(
            f"{len(plan.limits.broken)} limits of the target '{plan.limits.target}' cannot be met together, for example"
            f" {first.option} at '{first.node}' (see the report's decisions); the hardware may refuse the model."
        )
    return plan, stats


def _known(state: RunState, model: ir.Model) -> Reference | None:
    """Return what a large float model gives on a few samples that no weight is fitted to; None where it can run again.

    Equalized and refined it is another one, and a second copy of its weights is not kept for the comparison.
    """
    if model_bytes(model) < PER_TENSOR_BELOW:
        return None
    with state.stages("compare"):
        held = held_back(state.stream.count_up_to(4 * OUTPUT_FEEDS))[:OUTPUT_FEEDS]  # one of four, as of any number
        return Reference.of(model, SampleView.picked(state.stream, held), compared_values(model))


def _measure(
    state: RunState, model: ir.Model, quantized: ir.Model, known: Reference | None
) -> tuple[Comparison, Sequence[Feed], bool]:
    """Compare the result with the float model it came from; return the samples, too, and whether no weight saw them.

    A large one is not run again: what it gives is `known`.
    """
    state.progress("compare", 0, None)
    with state.stages("compare"):
        apart = state.stream.count_up_to(2) > 1
        if known is not None:
            return compare_models(model, quantized, known.feeds, tensors=False, expected=known), known.feeds, apart
        held = held_back(state.stream.count_up_to(MOST_FITTED + MOST_HELD))[:QUALITY_FEEDS]
        feeds = list(SampleView.picked(state.stream, held))
        return compare_models(model, quantized, feeds), feeds, apart
