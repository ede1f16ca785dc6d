"""See to it that the kernels onnxruntime chooses on this machine give what the model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import qdq
from equiquant.decisions import Decision
from equiquant.errors import ModelError
from equiquant.graph.query import LINEAR_OPS, label
from equiquant.io import Runner, model_bytes
from equiquant.numerics.statistics.sqnr import decibels
from equiquant.pipeline.state import RunState
from equiquant.verify import WHOLE_BELOW, Comparison, kernel_sqnr_db

__all__ = ["fit_kernels"]

MARGIN_DB = 10.0  # noise of the kernels this far below that of quantization costs 0.4 dB
EXACT_DB = 120.0  # of a result of kernels: float32 itself leaves not much more
GAIN_DB = 3.0  # what a remedy must give: where it gives less, the noise is of last bits
UNCHECKED = (
    f"from {WHOLE_BELOW / 1e6:.0f} MB of integers on it is not measured what onnxruntime's kernels with stored weights"
    " lose: its session would hold several copies of them"
)
EXACT_MATMUL = "session.qdq_matmulnbits_accuracy_level", "0"
"""The session entry under which a MatMul with stored weights reads its other operand as it is."""


def fit_kernels(
    state: RunState, model: ir.Model, quality: Comparison, feeds: Sequence[Mapping[str, npt.NDArray[Any]]]
) -> None:
    """Store int8 weights as uint8 where onnxruntime's kernels overflow with them here; say what else they lose.

    Models with int8 biases are left out: they are for hardware that onnxruntime does not know.

    Args:
        state: The run.
        model: The quantized model; its weights may change their type.
        quality: How the model compares with the float one, as written.
        feeds: What it was compared on.
    """
    recipe = state.recipe
    if recipe.bias_type != "int32" and not recipe.weight_only:
        return
    if model_bytes(model) >= WHOLE_BELOW:
        state.decisions.append(Decision("target", "kernels", "whole network", False, UNCHECKED))
    state.progress("kernels", 0, None)
    with state.stages("kernels"):
        try:
            kept = kernel_sqnr_db(model, feeds)
        except ModelError as error:
            fails, remedy = "onnxruntime fails on it as it is written", "Leave"
            if _runs_as_written(model, feeds):
                fails = "onnxruntime's graph optimizations fail on it"
                remedy = "Run it with graph_optimization_level ORT_DISABLE_ALL, or leave"
            state.warn(
                f"The quantized model is valid and its tensors were measured, but {fails} ({error}) {remedy} the layer"
                f" before or after the operator named float{_beside(model, str(error))}."
            )
            return
        written = {o.name: o.error.sqnr_db for o in quality.outputs}
        lost = [name for name, db in written.items() if kept.get(name, np.inf) < min(db + MARGIN_DB, EXACT_DB)]
        if not lost:
            return
        told = [name for name in lost if kept[name] < written[name]]
        exact = kernel_sqnr_db(model, feeds, dict([EXACT_MATMUL])) if told else {}
        left = {
            name: decibels(1.0, sum(10 ** (-db[name] / 10) for db in (kept, written)))
            for name in told
            if exact[name] >= kept[name] + GAIN_DB
        }
        if left:
            name = min(left, key=lambda output: left[output])
            state.warn(
                f"As onnxruntime runs the model, the kernel for MatMul with stored weights rounds activations to 8 bits"
                f" that the model does not round: of the output '{name}' about {left[name]:.0f} dB are"
                f" left instead of {written[name]:.0f}. Run it with the session option {'='.join(EXACT_MATMUL)}."
            )
            return
        unsigned = model.clone()
        stored = 0 if recipe.weight_only or recipe.weight_type != "int8" else qdq.store_unsigned(unsigned)
        better = kernel_sqnr_db(unsigned, feeds) if stored else {}
        helped = [name for name in lost if name in better and better[name] >= kept[name] + GAIN_DB]
        if not helped:
            return
    name = min(helped, key=lambda output: kept[output])
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


def _runs_as_written(model: ir.Model, feeds: Sequence[Mapping[str, npt.NDArray[Any]]]) -> bool:
    """True if onnxruntime runs the model where it changes nothing about it."""
    try:
        Runner(model, optimize=False).run(feeds[0])
    except ModelError:
        return False
    return True


def _beside(model: ir.Model, error: str) -> str:
    """Return how to exclude the layers next to the node an error names, each alone; that node itself has no kernel."""
    found = [node for node in model.graph if node.name and f"'{node.name}'" in error]
    layers = [name for node in found[:1] for backward in (True, False) if (name := _nearest(node, backward))]
    return f" (nodes_to_exclude={' or '.join(map(repr, layers))})" if layers else " (nodes_to_exclude)"


def _nearest(node: ir.Node, backward: bool) -> str:
    """Return the name of the nearest layer before or after a node, empty where there is none."""
    reached = [node]
    for place in reached:  # which grows
        if place is not node and place.op_type in LINEAR_OPS:
            return label(place)
        makers = [value.producer() for value in place.inputs if value is not None]
        readers = [reader for value in place.outputs for reader in value.consumers()]
        reached += [n for n in dict.fromkeys(makers if backward else readers) if n is not None and n not in reached]
    return ""
