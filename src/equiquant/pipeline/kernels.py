"""See to it that the integer kernels of this machine give what the model says."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant import qdq
from equiquant.decisions import Decision
from equiquant.errors import ModelError
from equiquant.pipeline.proving import proof_feeds
from equiquant.pipeline.state import RunState
from equiquant.verify import Comparison, kernel_sqnr_db

__all__ = ["fit_kernels"]

MARGIN_DB = 10.0  # noise of the kernels this far below that of quantization costs 0.4 dB
GAIN_DB = 3.0  # what uint8 weights must give: where they give less, the noise is of last bits, not of overflow


def fit_kernels(state: RunState, model: ir.Model, quality: Comparison) -> None:
    """Store int8 weights as uint8 where onnxruntime's kernels overflow with them here, and say so.

    Only integer kernels can: those of layers with int32 biases.

    Args:
        state: The run.
        model: The quantized model; its weights may change their type.
        quality: How the model compares with the float one, as written.
    """
    recipe = state.recipe
    if recipe.bias_type != "int32" or recipe.weight_type != "int8":
        return
    state.progress("kernels", 0, None)
    with state.stages("kernels"):
        feeds = state.stream.first(proof_feeds(model))
        try:
            kept = kernel_sqnr_db(model, feeds)
        except ModelError as error:
            state.warn(
                f"The quantized model is valid and was measured as it is written, but onnxruntime's graph optimizations"
                f" fail on it ({error}) Run it with graph_optimization_level ORT_DISABLE_ALL, or leave the operators"
                " around the one named float (nodes_to_exclude)."
            )
            return
        lost = [o.name for o in quality.outputs if kept.get(o.name, np.inf) < o.error.sqnr_db + MARGIN_DB]
        if not lost:
            return
        name = min(lost, key=lambda output: kept[output])
        unsigned = model.clone()
        stored = qdq.store_unsigned(unsigned)
        if not stored or kernel_sqnr_db(unsigned, feeds)[name] < kept[name] + GAIN_DB:
            return
    what = (
        f"onnxruntime's kernels for uint8 times int8 overflow on this CPU (it has no VNNI): of the output '{name}'"
        f" {kept[name]:.1f} dB would be left"
    )
    if recipe.avoid_overflow:
        qdq.store_unsigned(model)
        reason = f"{what}; {stored} weights are stored as uint8, the same numbers with zero point 128"
        state.decisions.append(Decision("target", "avoid_overflow", "whole network", True, reason))
    else:
        remedy = "Run the model with the session option session.x64quantprecision=1, or set AvoidOverflow to True."
        state.warn(f"{what[0].upper()}{what[1:]}. {remedy}")
