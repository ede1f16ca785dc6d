"""The run as one readable list: load, fold, equalize, prove, calibrate, choose, insert, compare."""

from __future__ import annotations

import gc
import warnings as python_warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from equiquant import calibrate, canonical, qdq, target
from equiquant.calibrate import SampleStream, TensorStats
from equiquant.decisions import Decision
from equiquant.equalization import find_classes, replace_clip6, solve, spread
from equiquant.equalization.plan import EqualizationPlan
from equiquant.graph import edit
from equiquant.graph.query import opset
from equiquant.io import ModelLike, input_specs, load_model, model_bytes, upgrade_opset
from equiquant.recipe import Recipe
from equiquant.report import Report, Stages
from equiquant.target import QuantPlan
from equiquant.verify import Comparison, Proof, Reference, apply_proven, compare_models

__all__ = ["Outcome", "Progress", "run"]

Progress = Callable[[str, int, int | None], None]

PROOF_FEEDS = 2  # feeds the float models are compared on
QUALITY_FEEDS = 8  # feeds the quantized model is compared on
PER_TENSOR_BELOW = 50_000_000  # bytes of weights; above, the comparison is limited to the outputs of a few feeds

NO_DATA = (
    "No calibration data was given: ranges come from made-up inputs, and accuracy will suffer."
    " Give a few dozen real samples (data=…, --data PATH, or a calibration_data_reader)."
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run leaves.

    Attributes:
        model: The equalized float model, or the QDQ model.
        report: Everything that was decided and measured.
    """

    model: ir.Model
    report: Report


@dataclass
class _Run:
    """The state of one run, and what goes into its report."""

    input_sha256: str
    input_path: str | None
    recipe: Recipe
    stream: SampleStream
    stages: Stages
    progress: Progress
    decisions: list[Decision] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    equalization: dict[str, Any] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        """Tell the user now and in the report."""
        self.warnings.append(text)
        python_warnings.warn(text, UserWarning, stacklevel=5)


def run(
    source: ModelLike,
    recipe: Recipe,
    data: Any = None,
    *,
    quantize: bool = True,
    progress: Progress | None = None,
) -> Outcome:
    """Turn a float model into an equalized, and unless `quantize` is off, quantized one.

    Args:
        source: The model; never changed.
        recipe: What to do.
        data: Calibration data, see `calibrate.open_samples`; None makes inputs up, with a warning.
        quantize: Insert Q/DQ; off, the result is the equalized float model.
        progress: Called with (stage, done, total).

    Raises:
        EquiQuantError: The model, the data or the options cannot be used.
    """
    stages = Stages()
    with stages("load"):
        loaded = load_model(source)
    with calibrate.open_samples(data, input_specs(loaded.model), recipe) as stream:
        path = str(loaded.path) if loaded.path else None
        state = _Run(loaded.sha256, path, recipe, stream, stages, progress or (lambda *_: None))
        if stream.synthetic and quantize:
            state.warn(NO_DATA)
        model, reference = _fold(state, loaded.model)
        del loaded
        if recipe.cle:
            model = _equalize(state, model, reference)
            gc.collect()
        if not quantize:
            return Outcome(model, _report(state))
        plan, stats = _plan(state, model)
        quantized = model.clone()
        with state.stages("insert"):
            qdq.insert(quantized, plan)
        quality = _measure(state, model, quantized)
        return Outcome(quantized, _report(state, plan, stats, quality))


def _fold(state: _Run, model: ir.Model) -> tuple[ir.Model, Reference]:
    """Bring the graph into its canonical form, proven equal to the original; else keep the graph as it was."""
    state.progress("fold", 0, None)
    recipe = state.recipe
    with state.stages("fold"):
        original = model.clone()
        reference = Reference(original, state.stream.first(PROOF_FEEDS))
        if opset(model) < (needed := target.required_opset(recipe)):
            upgrade_opset(model, needed)
        done = canonical.canonicalize(model, optimize=recipe.optimize)
        result = reference.measure(model)
        if result.error > recipe.equivalence_tolerance:
            state.warn(
                f"Folding changed '{result.output}' by {result.error:.1e} of its magnitude; the graph stays as it was."
            )
            model = original.clone()
            done = canonical.canonicalize(model, optimize=False)
    state.decisions += done
    del original
    gc.collect()  # a graph is full of cycles: without this the weights it replaced stay in memory
    return model, reference


def _equalize(state: _Run, model: ir.Model, reference: Reference) -> ir.Model:
    """Rescale channels, proven equal before and after."""
    state.progress("equalize", 0, None)
    recipe = state.recipe
    with state.stages("equalize"):
        if recipe.replace_clip6_relu and (replaced := replace_clip6(model)):
            state.decisions += replaced
            edit.infer_shapes(model)
            damage = reference.measure(model)
            state.equalization["replace_clip6_relu"] = {"replaced": len(replaced), "error": damage.error}
            if damage.error > recipe.equivalence_tolerance:
                state.warn(
                    f"ReplaceClip6Relu replaced {len(replaced)} Clip(0, 6) by Relu, which changed '{damage.output}' by"
                    f" {damage.error:.1%} of its magnitude before any rounding. Set it to False to keep the function."
                )
                reference = Reference(model, state.stream.first(PROOF_FEEDS))
        classes = find_classes(model)
        plan = solve(classes, steps=recipe.cle_steps, append_bias=recipe.cle_append_bias)
    with state.stages("prove"):
        proof = apply_proven(model, classes, plan.z, reference, recipe.equivalence_tolerance)
    state.decisions += proof.decisions
    state.equalization |= _describe(plan, proof, recipe)
    return proof.model


def _describe(plan: EqualizationPlan, proof: Proof, recipe: Recipe) -> dict[str, Any]:
    """Return the equalization section of the report."""
    layers = spread(plan.classes, proof.z)
    return {
        "method": plan.method,
        "steps": plan.sweeps,
        "classes": plan.classes.count - 1,
        "moved": int((proof.z != 0).sum()),
        "spread_before": max((layer.before for layer in layers), default=1.0),
        "spread_after": max((layer.after for layer in layers), default=1.0),
        "equivalence_error": proof.equivalence.error,
        "tolerance": recipe.equivalence_tolerance,
        "samples": proof.equivalence.samples,
        "rolled_back": [d.where for d in proof.decisions if d.rule == "rollback"],
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


def _plan(state: _Run, model: ir.Model) -> tuple[QuantPlan, TensorStats]:
    """Choose what is quantized and how, from the activations of the equalized model."""
    survey = target.survey(model, state.recipe)
    with state.stages("calibrate"):
        total = None
        stats = calibrate.collect(
            model,
            state.stream,
            survey.calibrated,
            state.recipe,
            progress=lambda done: state.progress("calibrate", done, total),
        )
    with state.stages("choose"):
        plan = target.choose(model, survey, stats, state.recipe)
    state.decisions += [Decision("target", "keep_float", node, False, why) for node, why in plan.kept_float.items()]
    return plan, stats


def _measure(state: _Run, model: ir.Model, quantized: ir.Model) -> Comparison:
    """Compare the result with the float model it came from, on the first calibration samples."""
    state.progress("compare", 0, None)
    with state.stages("compare"):
        small = model_bytes(model) < PER_TENSOR_BELOW
        feeds = state.stream.first(QUALITY_FEEDS if small else PROOF_FEEDS)
        return compare_models(model, quantized, feeds, tensors=small)


def _report(
    state: _Run, plan: QuantPlan | None = None, stats: TensorStats | None = None, quality: Comparison | None = None
) -> Report:
    return Report(
        recipe=state.recipe,
        input_sha256=state.input_sha256,
        input_path=state.input_path,
        decisions=tuple(state.decisions),
        equalization=state.equalization,
        tensors=_tensors(plan, stats) if plan is not None and stats is not None else (),
        quality=None if quality is None else {**quality.to_dict(), "synthetic": state.stream.synthetic},
        warnings=tuple(state.warnings),
        stages=state.stages.costs,
    )


def _tensors(plan: QuantPlan, stats: TensorStats) -> tuple[dict[str, Any], ...]:
    """Return one row per quantized tensor: activations first, then weights and biases by node and input."""
    rows = []
    for name, params in plan.activations.items():
        record = stats.tensors.get(name)
        rows.append(
            {
                "name": name,
                "scale": params.scale.tolist(),
                "zero_point": params.zero_point.tolist(),
                "type": params.type.name,
                "low": None if record is None else record.low,
                "high": None if record is None else record.high,
            }
        )
    for (node, index), params in plan.constants.items():
        row = {
            "name": f"{node}[{index}]",
            "scale": params.scale.tolist(),
            "zero_point": params.zero_point.tolist(),
            "type": params.type.name,
            "low": None,
            "high": None,
        }
        rows.append(row if params.axis is None else {**row, "axis": params.axis})
    return tuple(rows)
