"""See to it that the kernels onnxruntime chooses on this machine give what the model says."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant import qdq
from equiquant.decisions import Decision
from equiquant.errors import ModelError
from equiquant.numerics.sqnr import decibels
from equiquant.pipeline.proving import proof_feeds
from equiquant.pipeline.state import RunState
from equiquant.verify import Comparison, kernel_sqnr_db

__all__ = ["fit_kernels"]

MARGIN_DB = 10.0  # noise of the kernels this far below that of quantization costs 0.4 dB
EXACT_DB = 120.0  # of a result of kernels: float32 itself leaves not much more
GAIN_DB = 3.0  # what a remedy must give: where it gives less, the noise is of last bits
TOLD_FEEDS = 16  # that the user is told of: two may be out of the ordinary
EXACT_MATMUL = "session.qdq_matmulnbits_accuracy_level", "0"
"""The session entry under which a MatMul with stored weights reads its other operand as it is."""


def fit_kernels(state: RunState, model: ir.Model, quality: Comparison) -> None:
    """Store int8 weights as uint8 where onnxruntime's kernels overflow with them here; say what else they lose.

    Models with int8 biases are left out: they are for hardware that onnxruntime does not know.

    Args:
        state: The run.
        model: The quantized model; its weights may change their type.
        quality: How the model compares with the float one, as written.
    """
    recipe = state.recipe
    if recipe.bias_type != "int32" and not recipe.weight_only:
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
        written = {o.name: o.error.sqnr_db for o in quality.outputs}
        lost = [name for name, db in written.items() if kept.get(name, np.inf) < min(db + MARGIN_DB, EXACT_DB)]
        if not lost:
            return
        name = min(lost, key=lambda output: kept[output])
        if (
            kept[name] < written[name]
            and kernel_sqnr_db(model, feeds, dict([EXACT_MATMUL]))[name] >= kept[name] + GAIN_DB
        ):
            kept = kernel_sqnr_db(model, state.stream.first(TOLD_FEEDS))
            left = decibels(1.0, sum(10 ** (-db[name] / 10) for db in (kept, written)))
            state.warn(
                f"As onnxruntime runs the model, the kernel for MatMul with stored weights rounds activations to 8 bits"
                f" that the model does not round: of the output '{name}' about {left:.0f} dB are"
                f" left instead of {written[name]:.0f}. Run it with the session option {'='.join(EXACT_MATMUL)}."
            )
            return
        unsigned = model.clone()
        stored = 0 if recipe.weight_only or recipe.weight_type != "int8" else qdq.store_unsigned(unsigned)
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
