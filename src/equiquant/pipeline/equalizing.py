"""The equalization stage: find classes, solve, prove, and keep what measures best."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import calibrate, target
from equiquant.calibrate import SampleView
from equiquant.decisions import Decision
from equiquant.equalization import (
    EqualizationPlan,
    QuantizerModel,
    ScaleClasses,
    apply,
    clip_bounds,
    find_classes,
    measure_gains,
    noise_terms,
    plan_global,
    plan_pairwise,
    replace_clip6,
    spread,
)
from equiquant.graph import edit
from equiquant.numerics.figures import ChannelFigures
from equiquant.numerics.noise import NoiseTerm, objective
from equiquant.numerics.sqnr import decibels
from equiquant.pipeline.judging import Judge
from equiquant.pipeline.state import RunState
from equiquant.verify import Equivalence, Proof, Reference, apply_proven

__all__ = ["equalize"]

Array = npt.NDArray[Any]

PROOF_FEEDS = 2  # feeds the float models are compared on
GAIN_FEEDS = 16  # feeds the noise gains are averaged over


@dataclass(frozen=True, eq=False)
class _Trial:
    """One candidate: its log-scales as proven, and how it measured."""

    name: str
    z: Array
    steps: int
    equivalence: Equivalence
    decisions: tuple[Decision, ...]
    sqnr_db: float | None


def equalize(state: RunState, model: ir.Model, reference: Reference) -> ir.Model:
    """Return the model with its channels rescaled, proven equal to `model` and no worse when quantized.

    Args:
        state: The run; gets the decisions and the report's section.
        model: The folded float model.
        reference: Outputs of the model as the user gave it.
    """
    state.progress("equalize", 0, None)
    recipe = state.recipe
    with state.stages("measure"):
        judge = Judge(model, state.stream, recipe)
    if recipe.replace_clip6_relu:
        with state.stages("equalize"):
            reference = _replace_clip6(state, model, reference, judge)
    with state.stages("equalize"):
        classes = find_classes(model)
        plans, terms = _plans(state, model, classes, judge.fitted)
    trials = [_try(state, model, classes, plan, reference, judge) for plan in plans]
    best = _choose(state, model, trials, judge)
    state.decisions += best.decisions
    state.equalization |= _describe(state, classes, terms, trials, best)
    with state.stages("equalize"):
        equalized = model.clone()
        apply(equalized, find_classes(equalized), best.z)
    return equalized


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


def _plans(
    state: RunState, model: ir.Model, classes: ScaleClasses, samples: SampleView
) -> tuple[list[EqualizationPlan], list[NoiseTerm]]:
    """Solve for the scales by every method asked for; the noise terms are empty where only pairwise is."""
    recipe = state.recipe
    survey = target.survey(model, recipe)
    if recipe.cle_method == "pairwise" and not classes.clips:
        figures: Mapping[str, ChannelFigures] = {}
    else:
        figures = _figures(state, model, classes, survey.calibrated, samples)
    bounds = clip_bounds(classes, figures)
    pairwise = plan_pairwise(classes, bounds, steps=recipe.cle_steps, append_bias=recipe.cle_append_bias)
    if recipe.cle_method == "pairwise":
        return [pairwise], []
    terms = _noise(model, classes, survey, figures, samples)
    best = plan_global(terms, pairwise.z, bounds)
    return ([pairwise, best] if recipe.cle_method == "auto" else [best]), terms


def _figures(
    state: RunState, model: ir.Model, classes: ScaleClasses, tensors: tuple[str, ...], samples: SampleView
) -> Mapping[str, ChannelFigures]:
    """Calibrate the tensors' channels, and the outputs' and the Clips'."""
    values = {v.name or "": v for v in model.graph.inputs} | {v.name or "": v for n in model.graph for v in n.outputs}
    wanted = dict.fromkeys([*tensors, *(c.node.outputs[0].name or "" for c in classes.clips)])
    axes = {name: axis for name in wanted if (axis := _channel_axis(values[name], classes)) is not None}
    recipe = state.recipe.replace(calibration="minmax", scale_kind="float", bias_type="int32")
    stats = calibrate.collect(model, samples, (), recipe, channels=axes)
    return {name: record.channels for name, record in stats.tensors.items() if record.channels is not None}


def _channel_axis(value: ir.Value, classes: ScaleClasses) -> int | None:
    """Return the axis along which a value's classes differ, else axis 1; None for scalars and unknown ranks."""
    rank = len(value.shape) if value.shape is not None else 0
    if rank == 0:
        return None
    ids = classes.values.get(value)
    varying = [] if ids is None else [axis for axis, size in enumerate(ids.shape) if size > 1]
    return varying[0] if len(varying) == 1 else min(1, rank - 1)


def _noise(
    model: ir.Model,
    classes: ScaleClasses,
    survey: target.Survey,
    figures: Mapping[str, ChannelFigures],
    samples: SampleView,
) -> list[NoiseTerm]:
    """Build the objective for the quantizer that will follow."""
    chosen = survey.target
    quantizer = QuantizerModel(
        nodes=frozenset(survey.nodes),
        tensors=frozenset(survey.calibrated),
        weight_levels=float(chosen.weight.qmax - chosen.weight.center),
        activation_levels=float(
            chosen.activation.qmax
            - (chosen.activation.center if chosen.activation_symmetric else chosen.activation.qmin)
        ),
        symmetric=chosen.activation_symmetric,
        per_channel=chosen.per_channel,
        bias_levels=None if chosen.bias.bits == 32 else float(chosen.bias.qmax),
    )
    axes = {name: figure.axis for name, figure in figures.items()}
    axes |= {s.node.outputs[0].name or "": _output_axis(s.node) for s in classes.slots if s.role == "weight"}
    feeds = [feed for feed, _ in zip(samples, range(GAIN_FEEDS), strict=False)]
    return noise_terms(classes, figures, measure_gains(model, feeds, axes), quantizer)


def _output_axis(node: ir.Node) -> int:
    rank = len(node.outputs[0].shape or ())
    return rank - 1 if node.op_type == "MatMul" else min(1, max(rank - 1, 0))


def _try(
    state: RunState,
    model: ir.Model,
    classes: ScaleClasses,
    plan: EqualizationPlan,
    reference: Reference,
    judge: Judge,
) -> _Trial:
    """Prove one plan and measure it; the model it makes is let go, its scales are kept."""
    with state.stages("prove"):
        proof: Proof = apply_proven(model, classes, plan.z, reference, state.recipe.equivalence_tolerance)
    with state.stages("measure"):
        sqnr = judge.sqnr_db(proof.model) if _measured(state) else None
    trial = _Trial(plan.method, proof.z, plan.steps, proof.equivalence, proof.decisions, sqnr)
    del proof
    gc.collect()
    return trial


def _measured(state: RunState) -> bool:
    return state.recipe.cle_accept == "measured" and (state.quantize or state.recipe.cle_method == "auto")


def _choose(state: RunState, model: ir.Model, trials: list[_Trial], judge: Judge) -> _Trial:
    """Return the trial that measures best, leaving the model alone being one of them."""
    if not _measured(state):
        return trials[-1]
    with state.stages("measure"):
        alone = judge.sqnr_db(model)
    nothing = _Trial("none", np.zeros_like(trials[0].z), 0, Equivalence(0.0, "", 0), (), alone)
    best = max([nothing, *trials], key=lambda t: t.sqnr_db if t.sqnr_db is not None else -np.inf)
    state.equalization["trials"] = [{"method": t.name, "sqnr_db": t.sqnr_db} for t in (nothing, *trials)]
    if best is nothing:
        reason = f"no scales measured better than the {alone:.2f} dB of the model as it is; nothing was rescaled"
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
        solved = {"before": start} | {t.name: t.z for t in trials}
        section["objective_db"] = {name: decibels(1.0, objective(terms, z)) for name, z in solved.items()}
        section["noise"] = [
            {"name": t.name, "kind": t.kind} | {name: decibels(1.0, t.exact(z)) for name, z in solved.items()}
            for t in terms
        ]
    return section
