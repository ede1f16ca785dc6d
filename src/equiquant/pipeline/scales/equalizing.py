"""The equalization stage: find classes, solve, prove, and keep what measures best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import target
from equiquant.calibrate import AppliedScales
from equiquant.decisions import Decision
from equiquant.equalization import (
    EqualizationPlan,
    Ranges,
    ScaleClasses,
    apply,
    find_classes,
    spread,
    without_growth,
)
from equiquant.errors import DataError, ModelError
from equiquant.io import model_bytes, release_memory
from equiquant.numerics.parallel import parallel
from equiquant.numerics.scales.noise import NoiseTerm
from equiquant.numerics.statistics.sqnr import decibels
from equiquant.pipeline.inputs.ranges import input_ranges
from equiquant.pipeline.measuring.judging import EQUAL_DB, Judge
from equiquant.pipeline.measuring.loud_samples import loud_samples
from equiquant.pipeline.network.proving import LARGE
from equiquant.pipeline.scales.clip_reach import ClipReach, held_by_clips
from equiquant.pipeline.scales.clips import (
    check_clips,
    float_reach,
    prepare_clips,
    replaces_clips,
    tell_of_soft,
    warn_of_strays,
)
from equiquant.pipeline.scales.solving import SOLVING_STEPS, solve
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe
from equiquant.refine import Original
from equiquant.verify import Equivalence, Proof, Reference, apply_known, apply_proven

__all__ = ["Equalized", "equalize", "equalize_as"]

Array = npt.NDArray[Any]
Noise = dict[str, list[float]]
"""Predicted noise over signal of every term, by plan."""

ROOM_DB = 6.0  # that room for more than the few values seen may cost on samples that need none
MOST_CANDIDATES = 5  # the model as it is, pairwise, global, global with ranges, soft
STEPS = 1 + SOLVING_STEPS + MOST_CANDIDATES  # the first is what channels under a Clip reach
PARTS = 100  # of a step
CLEAR_DB = 3.0  # predicted from calibration data; the prediction errs by less where both sides are of one network


@dataclass(frozen=True, eq=False)
class _Trial:
    """One candidate: its log-scales as proven, and how it measured; the model only where there are no others."""

    name: str
    z: Array
    steps: int
    equivalence: Equivalence
    decisions: tuple[Decision, ...]
    ranges: Ranges | None
    sqnr_db: float | None
    model: ir.Model | None


@dataclass(frozen=True, eq=False)
class Equalized:
    """What equalization made.

    Attributes:
        model: The float model with its channels rescaled.
        ranges: The ranges chosen with the scales, if any.
        factors: Where the function was changed on purpose (ReLU6 replaced, `soft`, rewritten for the NPU): what each
            tensor was multiplied by, by name, arrays that broadcast against the tensor. None where model and original
            compute the same.
    """

    model: ir.Model
    ranges: Ranges | None = None
    factors: Mapping[str, Array] | None = None


def equalize(state: RunState, model: ir.Model, reference: Reference) -> Equalized:
    """Return the model with its channels rescaled, proven equal and no worse when quantized.

    Args:
        state: The run; gets the decisions and the report's section.
        model: The folded float model.
        reference: Outputs of the model as the user gave it.
    """

    def progress(done: float) -> None:
        state.progress("equalize", round(PARTS * done), PARTS * STEPS)

    progress(0)
    recipe = state.recipe
    with state.stages("measure"):
        judge = Judge(model, state.stream, recipe, weighed=True)
    with state.stages("equalize"):
        reference = prepare_clips(state, model, reference, judge)
        classes = find_classes(model)
        asked = recipe if state.quantize else recipe.replace(bias_correction=False)  # another tool's biases stay
        survey = target.survey(model, asked) if state.quantize else _survey(state, model, asked)
        reach = None if state.quantize else float_reach(state, model, classes, progress)
        plans, terms = _solved(state, model, classes, asked, survey, judge, reach, lambda done: progress(1 + done))
        plans = [plan.moved_to(classes, without_growth(classes, plan.z)) for plan in plans]
        inputs = input_ranges(state, model, classes, survey, asked, judge.affordable, plans)
        terms = [term for term in terms if not inputs.exact((term.kind, term.name))]
        # Where no class is free, all the methods say what the first says: nothing.
        plans = [plan for plan in plans if plan is plans[0] or plan.z.any() or plan.ranges is not None]
        noise = {plan.method: _exact(terms, plan.z) for plan in plans}
        rows = [(term.kind, term.name) for term in terms]
        seen = {p.method: {**p.noise, **inputs.noise} for p in plans}
        told = {m: [seen[m].get(row, n) for row, n in zip(rows, noise[m], strict=True)] for m in seen}
        if model_bytes(model) > LARGE:
            terms = []  # as large as the weights
        release_memory()
        measured = survey is not None and _measured(state) and not _clear(model, plans, noise)
        if not measured:
            plans = plans[-1:]
        elif state.quantize and noise["none"]:  # one that moves float layers alone would measure the same
            plans = [p for p in plans if p.method == "none" or p.ranges is not None or noise[p.method] != noise["none"]]
    plans = inputs.given_to(plans)
    only = len(plans) == 1
    trials = []
    for left, plan in zip(range(len(plans), 0, -1), plans, strict=True):
        progress(STEPS - left)
        trials.append(_try(state, model, classes, plan, reference, judge if measured else None, keep=only))
    progress(STEPS)
    best = _choose(state, trials)
    state.decisions += [*best.decisions, *(loud_samples("equalize", judge.yardstick) if measured else ())]
    state.equalization |= _describe(state, classes, best) | _noise(rows, _as_proven(told, terms, plans, trials))
    state.equalization["held"] = judge.rest is not None
    equalized = _applied(state, model, classes, best)
    if best.name == "soft":  # what the Clips' channels reach was no limit
        state.decisions = [d for d in state.decisions if d.rule != "clip_bound"]
        tell_of_soft(state, model, equalized.model, best.equivalence.error, judge)
    if reach is not None and best.name != "soft":
        warn_of_strays(state, classes, reach, best.z)
    if state.quantize:
        _check_clips(state, model, classes, best, equalized, judge)
    return equalized


def equalize_as(state: RunState, model: ir.Model, reference: Reference, scales: AppliedScales) -> Equalized:
    """Return the model with its channels rescaled as an earlier run found best and proved on its samples.

    They are applied as they are, or the statistics would be of another model; what they leave of the function on the
    samples at hand is measured and, beyond the tolerance, said.

    Raises:
        DataError: The scales are not of this model's classes.
    """
    state.progress("equalize", 0, None)
    with state.stages("measure"):  # of what replaces Clips; nothing else is measured before the scales are applied
        judge = Judge(model, state.stream, state.recipe) if replaces_clips(state.recipe) else None
    with state.stages("equalize"):
        reference = prepare_clips(state, model, reference, judge)
        classes = find_classes(model)
    if scales.z.shape != (classes.count,):
        raise DataError("The scales among the statistics are of another model. Name another file and give the data.")
    with state.stages("prove"):
        proof = apply_known(model, classes, scales.z, reference)
    trial = _Trial(
        scales.method, scales.z, scales.steps, proof.equivalence, proof.decisions, scales.ranges, None, proof.model
    )
    tolerance = state.recipe.equivalence_tolerance
    if trial.name != "soft" and proof.equivalence.error > tolerance and not state.stream.synthetic:
        state.warn(
            f"The equalization among the statistics {proof.moved} on the samples given; those it was proven on moved by"
            f" no more than {tolerance:.0e}. Name another file, to calibrate for these samples."
        )
    state.decisions += trial.decisions
    state.equalization |= _describe(state, classes, trial)
    equalized = _applied(state, model, classes, trial)
    if trial.name == "soft":
        tell_of_soft(state, model, equalized.model, trial.equivalence.error, judge)
    if not state.stream.synthetic:
        _check_clips(state, model, classes, trial, equalized, judge)
    return equalized


def _check_clips(
    state: RunState, model: ir.Model, classes: ScaleClasses, trial: _Trial, equalized: Equalized, judge: Judge | None
) -> None:
    """Measure what is left of the function on samples held back, where a Clip's bound may be reached unawares."""
    if classes.clips and trial.name != "soft" and trial.z.any():
        check_clips(state, model, equalized.model, judge or Judge(model, state.stream, state.recipe))


def _survey(state: RunState, model: ir.Model, recipe: Recipe) -> target.Survey | None:
    """Return what another tool may quantize, None where nothing can be: of a float16 model there are only ranges."""
    try:
        return target.survey(model, recipe)
    except ModelError as error:
        reason = f"its noise cannot be predicted, so ranges alone count, as in the pairwise solver. {error}"
        state.decisions.append(Decision("equalize", "global_solver", "whole network", False, reason))
        return None


def _solved(
    state: RunState,
    model: ir.Model,
    classes: ScaleClasses,
    recipe: Recipe,
    survey: target.Survey | None,
    judge: Judge,
    reach: ClipReach | None,
    progress: Callable[[int], None],
) -> tuple[list[EqualizationPlan], list[NoiseTerm]]:
    """Return the plans and the noise terms; only the pairwise plan and no terms where no gradients can be computed."""
    gradients = survey is not None and recipe.cle and recipe.cle_method != "pairwise"
    try:
        plans, terms = solve(
            model, classes, recipe, survey, judge.fitted, judge.affordable, reach, judge.rest, progress
        )
        why = "No finite gradient of an output reaches what is rounded." if gradients and not terms else ""
    except ModelError as error:
        if survey is None:
            raise
        plans, terms = solve(model, classes, recipe, None, judge.fitted, judge.affordable, reach, progress=progress)
        why = str(error)
    if why:
        reason = f"ranges alone count, as in the pairwise solver: the noise at the outputs cannot be measured. {why}"
        state.decisions.append(Decision("equalize", "global_solver", "whole network", False, reason))
    return plans, terms


def _applied(state: RunState, model: ir.Model, classes: ScaleClasses, trial: _Trial) -> Equalized:
    """Return a copy of the model with the trial's scales, which are remembered."""
    with state.stages("equalize"):
        equalized = trial.model
        if equalized is None:
            equalized = model.clone()
            apply(equalized, find_classes(equalized), trial.z)
    if state.scales is not None:
        state.scales = replace(state.scales, method=trial.name, steps=trial.steps, z=trial.z, ranges=trial.ranges)
    changed = trial.name == "soft" or "replace_clip6_relu" in state.equalization or state.approximated
    return Equalized(equalized, trial.ranges, _factors(classes, trial.z) if changed else None)


def _factors(classes: ScaleClasses, z: Array) -> dict[str, Array]:
    """Return what each tensor is multiplied by, by name; arrays that broadcast against the tensor."""
    return {value.name or "": np.exp(z[ids]) for value, ids in classes.values.items()}


def _measured(state: RunState) -> bool:
    """True if candidates are to be quantized and compared; a float model for elsewhere only where methods compete."""
    recipe = state.recipe
    competing = state.quantize or recipe.cle_method == "auto" or recipe.clip_mode == "soft"
    return recipe.cle_accept == "measured" and competing


def _clear(model: ir.Model, plans: list[EqualizationPlan], noise: Noise) -> bool:
    """True if quantizing the candidates of a large model would only confirm what the noise terms say.

    `soft` changes the function, which they do not tell of.
    """
    if plans[-1].method == "soft":
        return False
    before, after = (sum(noise[plan.method]) for plan in (plans[0], plans[-1]))
    return model_bytes(model) > LARGE and after > 0 and decibels(before, after) > CLEAR_DB


def _try(
    state: RunState,
    model: ir.Model,
    classes: ScaleClasses,
    plan: EqualizationPlan,
    reference: Reference,
    judge: Judge | None,
    *,
    keep: bool,
) -> _Trial:
    """Prove one plan and, given a judge, measure it; unless `keep`, the model it makes is let go."""
    tolerance = np.inf if plan.method == "soft" else state.recipe.equivalence_tolerance
    with state.stages("prove"):
        proof: Proof = apply_proven(model, classes, plan.z, reference, tolerance)
        release_memory()
    choices = (plan.ranges, plan.settled, plan.widened)
    ranges, settled, widened = (plan.ranges_at(classes, proof.z, choice) for choice in choices)
    sqnr: float | None = None
    if judge is None:
        ranges = settled or ranges
    else:
        with state.stages("measure"):
            aim = Original(judge.aim(model, ranges), _factors(classes, proof.z))
            measure = partial(judge.sqnr_db, proof.model, original=aim)
            sqnr = measure(ranges)
            chosen = ranges
            if settled is not None and (roomy := measure(settled)) > sqnr - ROOM_DB:
                chosen, sqnr = settled, roomy  # too few samples are held back to show what room is good for
            if widened is not None and (wide := measure(widened)) > sqnr + EQUAL_DB:
                chosen, sqnr = widened, wide
            ranges = chosen
    made = proof.model if keep else None
    trial = _Trial(plan.method, proof.z, plan.steps, proof.equivalence, proof.decisions, ranges, sqnr, made)
    del proof
    release_memory(0 if keep else model_bytes(model))
    return trial


def _choose(state: RunState, trials: list[_Trial]) -> _Trial:
    """Return the trial that measures best or nearly so, leaving the model alone being one of them.

    Of trials too close to tell apart the last is kept: the solver expects most of it. `soft` changes the function, so
    it has to be the best.
    """
    measured = [t.sqnr_db for t in trials if t.sqnr_db is not None]
    if len(measured) < len(trials):
        return trials[-1]
    margins = [0.0 if trial.name == "soft" else EQUAL_DB for trial in trials]
    best = [t for t, db, m in zip(trials, measured, margins, strict=True) if db >= max(measured) - m][-1]
    state.equalization["trials"] = [{"method": t.name, "sqnr_db": t.sqnr_db} for t in trials]
    if best.name.startswith("none") and state.recipe.cle:
        reason = f"no scales measured better than the {best.sqnr_db:.2f} dB of the model as it is; nothing was rescaled"
        state.decisions.append(Decision("equalize", "do_no_harm", "whole network", False, reason))
    return best


def _describe(state: RunState, classes: ScaleClasses, best: _Trial) -> dict[str, Any]:
    """Return the equalization section of the report."""
    layers = spread(classes, best.z)
    section: dict[str, Any] = {
        "method": best.name,
        "steps": best.steps,
        "classes": classes.count - 1,
        "moved": int((best.z != 0).sum()),
        "spread_before": max((layer.before for layer in layers if layer.free), default=None),
        "spread_after": max((layer.after for layer in layers if layer.free), default=None),
        "equivalence_error": best.equivalence.error,
        "tolerance": state.recipe.equivalence_tolerance,
        "samples": best.equivalence.samples,
        "held_by_clips": held_by_clips(classes, best.z),
        "rolled_back": [d.where for d in best.decisions if d.rule == "rollback"],
        "tensors": [
            {
                "tensor": layer.node,
                "channels": layer.channels,
                "spread_before": layer.before,
                "spread_after": layer.after,
                "free": layer.free,
                "pinned_by": layer.pinned_by,
            }
            for layer in layers
        ],
    }
    return section


def _exact(terms: list[NoiseTerm], z: Array) -> list[float]:
    """Return the noise over signal of each term at log-scales z, with ranges that hold every value."""
    return parallel(lambda term: term.exact(z), terms)


def _as_proven(told: Noise, terms: list[NoiseTerm], plans: list[EqualizationPlan], trials: list[_Trial]) -> Noise:
    """Return the predicted noise of the plans, at the log-scales that the proof left them.

    Without terms, as of a large model, only what nothing is left of can be told; other plans that changed have none.
    """
    found = dict(told)
    for plan, trial in zip(plans, trials, strict=True):
        if np.array_equal(trial.z, plan.z):
            continue
        ends = () if trial.ranges is None else trial.ranges.ends
        kept = {row: noise for row, noise in plan.noise.items() if row in ends}
        if terms:
            found[plan.method] = [
                kept.get((t.kind, t.name), n) for t, n in zip(terms, _exact(terms, trial.z), strict=True)
            ]
        elif not trial.z.any():
            found[plan.method] = told["none"]
        else:
            del found[plan.method]
    return found


def _noise(terms: list[tuple[str, str]], noise: Noise) -> dict[str, Any]:
    """Return the predicted noise, in dB under the signal, of the network and every term, before and after each plan."""
    if not terms:
        return {}
    names = {"none": "before"}
    solved = {names.get(method, method): values for method, values in noise.items()}
    rows = [
        {"name": name, "kind": kind} | {method: decibels(1.0, values[index]) for method, values in solved.items()}
        for index, (kind, name) in enumerate(terms)
    ]
    return {"objective_db": {name: decibels(1.0, sum(values)) for name, values in solved.items()}, "noise": rows}
