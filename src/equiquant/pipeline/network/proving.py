"""Is a rewritten graph still the same function? Within the tolerance, or within what float arithmetic leaves open.

The latter only before quantization, which drowns it; a float model that is handed on keeps to the tolerance.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.calibrate import SampleView
from equiquant.decisions import Decision
from equiquant.errors import ModelError
from equiquant.graph.query import opset
from equiquant.io import model_bytes
from equiquant.pipeline.measuring.splitting import alternate
from equiquant.pipeline.state import RunState
from equiquant.verify import Reference, float_noise

__all__ = ["LARGE", "check_upgrade", "proof_feeds", "proof_samples", "reference_kept"]

PROOF_FEEDS = 2  # feeds the float models are compared on
LARGE = 100_000_000
"""Bytes of weights; of a model with more, a measurement takes seconds."""

MEASURED_BELOW = 1_000_000_000  # bytes of weights; a second copy of more is not worth having
FAR = 1e-3  # of an output's magnitude: no rounding, but another function
ROUNDINGS = 4.0  # times the noise of weights moved by one unit: a rewrite rounds activations anew as well


def proof_feeds(model: ir.Model) -> int:
    """Return how many feeds float models are compared on: one of a large model gives outputs enough."""
    return 1 if model_bytes(model) > LARGE else PROOF_FEEDS


def proof_samples(state: RunState, model: ir.Model) -> SampleView:
    """Return what float models are compared on, of the samples that scales are chosen on.

    On the others a ReLU6 may cut what it cut on none of these; `clips` tells how much.
    """
    known = state.stream.count_up_to(2 * proof_feeds(model))
    return SampleView.picked(state.stream, alternate(known)[0])


def reference_kept(state: RunState, model: ir.Model, reference: Reference, stage: str) -> Reference | None:
    """Return the outputs that later stages have to keep if the model still computes the reference's; None if not.

    Args:
        state: The run; gets the decision where the tolerance alone would not do.
        model: The rewritten model.
        reference: Outputs of the model before.
        stage: Who rewrote it, for the decision; undoing it is left to the caller, a warning is not.
    """
    moved = {n: e for n, e in reference.errors(model).items() if e > state.recipe.equivalence_tolerance}
    if not moved:
        return reference
    # what is no float flips where rounding decides, and has no tolerance
    rounding = all(state.quantize or not reference.is_float(name) for name in moved)
    if rounding and model_bytes(model) < MEASURED_BELOW:
        own = Reference.of(model, reference.feeds)
        noise = float_noise(model, own)
        if all(error <= ROUNDINGS * noise[name] < np.inf for name, error in moved.items()):
            for name, error in moved.items():
                reason = (
                    f"moved by {error:.1e} of its magnitude, which is rounding: moving every weight by one unit in the"
                    f" last place moves it by {noise[name]:.1e}"
                )
                state.decisions.append(Decision(stage, "float_noise", name, True, reason))
            return own
    worst = max(moved, key=lambda name: moved[name])
    what = "Folding" if stage == "canonical" else "Rewriting for the NPU"
    state.warn(f"{what} changed '{worst}' by {moved[worst]:.1e} of its magnitude; it was undone.")
    return None


def check_upgrade(original: ir.Model, model: ir.Model, reference: Reference) -> None:
    """Refuse a model that another opset makes another function of.

    Raises:
        ModelError: It is another function.
    """
    before, after = opset(original), opset(model)
    if after == before:
        return
    for name, error in reference.errors(model).items():
        if error > FAR and reference.is_float(name):
            raise ModelError(
                f"Converting the model from opset {before} to {after} changes '{name}' by {error:.1e} of its magnitude."
                " Export it again with opset 13 or later."
            )
