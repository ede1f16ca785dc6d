"""The equalization stage: find classes, solve, prove, and keep what measures best."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization import (
    EqualizationPlan,
    Ranges,
    ScaleClasses,
    apply,
    find_classes,
    replace_clip6,
    split_clips,
    spread,
)
from equiquant.graph import edit
from equiquant.numerics.noise import NoiseTerm, objective
from equiquant.numerics.sqnr import decibels
from equiquant.pipeline.judging import Judge
from equiquant.pipeline.solving import solve
from equiquant.pipeline.state import RunState
from equiquant.verify import Equivalence, Proof, Reference, apply_proven

__all__ = ["equalize", "solve"]

Array = npt.NDArray[Any]

PROOF_FEEDS = 2  # feeds the float models are compared on


@dataclass(frozen=True, eq=False)
class _Trial:
    """One candidate: its log-scales as proven, and how it measured."""

    name: str
    z: Array
    steps: int
    equivalence: Equivalence
    decisions: tuple[Decision, ...]
    ranges: Ranges | None
    sqnr_db: float | None


def equalize(state: RunState, model: ir.Model, reference: Reference) -> tuple[ir.Model, Ranges | None]:
    """Return the model with its channels rescaled, proven equal and no worse when quantized, and the ranges chosen.

    Args:
        state: The run; gets the decisions and the report's section.
        model: The folded float model.
        reference: Outputs of the model as the user gave it.
    """
    state.progress("equalize", 0, None)
    recipe = state.recipe
    with state.stages("measure"):
        judge = Judge(model, state.stream, recipe)
    with state.stages("equalize"):
        if not recipe.cle:
            pass
        elif recipe.replace_clip6_relu or recipe.clip_mode == "relu":
            reference = _replace_clip6(state, model, reference, judge)
        elif recipe.clip_mode.startswith("per_channel"):
            count = recipe.clip_mode.partition(":")[2]
            state.decisions += split_clips(model, int(count) if count else None)
    with state.stages("equalize"):
        classes = find_classes(model)
        plans, terms = solve(model, classes, recipe, judge.fitted, judge.affordable)
    trials = [_try(state, model, classes, plan, reference, judge) for plan in plans if _wanted(state, plan)]
    best = _choose(state, trials)
    state.decisions += best.decisions
    state.equalization |= _describe(state, classes, terms, trials, best)
    with state.stages("equalize"):
        equalized = model.clone()
        apply(equalized, find_classes(equalized), best.z)
    return equalized, best.ranges


def _wanted(state: RunState, plan: EqualizationPlan) -> bool:
    return plan.method != "none" or _measured(state)


def _replace_clip6(state: RunState, model: ir.Model, reference: Reference, judge: Judge) -> Reference:
    """Replace ReLU6 by ReLU as asked, and say what that alone costs."""
    replaced = replace_clip6(model)
    if not replaced:
        return reference
    state.decisions += replaced
    edit.infer_shapes(model)
    damage = judge.float_sqnr_db(model)
    error = reference.measure(model).error
    state.equalization["replace_clip6_relu"] = {"replaced": len(replaced), "error": error, "sqnr_db": damage}
    if error <= state.recipe.equivalence_tolerance:
        return reference
    state.warn(
        f"ReplaceClip6Relu replaced {len(replaced)} Clip(0, 6) by Relu, which changed the float function:"
        f" {damage:.1f} dB are left before any rounding. Set it to False to keep the function."
    )
    return Reference(model, state.stream.first(PROOF_FEEDS))


def _try(
    state: RunState,
    model: ir.Model,
    classes: ScaleClasses,
    plan: EqualizationPlan,
    reference: Reference,
    judge: Judge,
) -> _Trial:
    """Prove one plan and measure it; the model it makes is let go, its scales are kept."""
    tolerance = np.inf if plan.method == "soft" else state.recipe.equivalence_tolerance
    with state.stages("prove"):
        proof: Proof = apply_proven(model, classes, plan.z, reference, tolerance)
    ranges = plan.ranges if np.array_equal(proof.z, plan.z) else None  # they belong to the scales as planned
    with state.stages("measure"):
        sqnr = judge.sqnr_db(proof.model, ranges) if _measured(state) else None
    trial = _Trial(plan.method, proof.z, plan.steps, proof.equivalence, proof.decisions, ranges, sqnr)
    del proof
    gc.collect()
    return trial


def _measured(state: RunState) -> bool:
    return state.recipe.cle_accept == "measured" and (state.quantize or state.recipe.cle_method == "auto")


def _choose(state: RunState, trials: list[_Trial]) -> _Trial:
    """Return the trial that measures best, leaving the model alone being one of them."""
    if not _measured(state):
        return trials[-1]
    best = max(trials, key=lambda t: t.sqnr_db if t.sqnr_db is not None else -np.inf)
    state.equalization["trials"] = [{"method": t.name, "sqnr_db": t.sqnr_db} for t in trials]
    if best.name.startswith("none") and state.recipe.cle:
        reason = f"no scales measured better than the {best.sqnr_db:.2f} dB of the model as it is; nothing was rescaled"
        state.decisions.append(Decision("equalize", "do_no_harm", "whole network", False, reason))
    return best


def _describe(
    state: RunState, classes: ScaleClasses, terms: list[NoiseTerm], trials: list[_Trial], best: _Trial
) -> dict[str, Any]:
    """Return the equalization section of the report."""
    layers = spread(classes, best.z)
    section: dict[str, Any] = {
        "method": best.name,
        "steps": best.steps,
        "classes": classes.count - 1,
        "moved": int((best.z != 0).sum()),
        "spread_before": max((layer.before for layer in layers if layer.free), default=1.0),
        "spread_after": max((layer.after for layer in layers if layer.free), default=1.0),
        "equivalence_error": best.equivalence.error,
        "tolerance": state.recipe.equivalence_tolerance,
        "samples": best.equivalence.samples,
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
    if terms:
        start = np.zeros(classes.count)
        solved = {"before": start} | {t.name: t.z for t in trials if t.name != "none"}
        section["objective_db"] = {name: decibels(1.0, objective(terms, z)) for name, z in solved.items()}
        section["noise"] = [
            {"name": t.name, "kind": t.kind} | {name: decibels(1.0, t.exact(z)) for name, z in solved.items()}
            for t in terms
        ]
    return section
