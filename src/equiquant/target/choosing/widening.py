"""The CPU form: what lets runtimes take a plan's layers to integer kernels.

Relu, Clip and Min work on integers, behind QuantizeLinear (`qdq.integer_clip`). Int8 biases of a power-of-two model are
written as int32 at the scale of the accumulator.

A bias b·2^−p_b with b in 8 bits is b·2^shift steps of 2^−(p_in + p_w), shift = p_in + p_w − p_b: the very same number
as long as the shift is not negative, and integer kernels take it. A bias finer than the accumulator (shift < 0) is
rounded to its steps, as the hardware's shifter does.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.graph.query import label
from equiquant.numerics.affine import QuantParams
from equiquant.target.plan import QuantPlan
from equiquant.target.table.ops import row_of
from equiquant.target.table.targets import Target

__all__ = ["cpu_form"]

FULL_SHIFT = 31 - 8  # bits an int8 may be shifted to the left within int32


def cpu_form(model: ir.Model, plan: QuantPlan, target: Target) -> QuantPlan:
    """Return the plan for integer kernels, the values it gives unchanged.

    Args:
        model: The model the plan is for; only read.
        plan: The plan.
        target: What it is for; a plan for hardware with a form of its own stays as it is.
    """
    if target.widened:
        plan = _widen_biases(model, plan)
    return dataclasses.replace(plan, integer_clips=target.integer_clips)


def _widen_biases(model: ir.Model, plan: QuantPlan) -> QuantPlan:
    """Return a plan with power-of-two scales with int8 biases stored as int32 at s_x·s_w."""
    constants, grids = dict(plan.constants), dict(plan.grids)
    remarks = list(plan.remarks)
    for node in model.graph:
        row, name = row_of(node), node.name or ""
        if row is None or row.bias is None or row.weight is None or (name, row.bias) not in constants:
            continue
        params = constants[name, row.bias]
        step = _step(node, plan, row.weight)
        shift = int(np.rint(np.log2(float(params.scale) / step)))
        if shift > FULL_SHIFT:
            why = f"shifted by {shift} bits the bias does not fit int32, so it stays int8"
            remarks.append(Decision("target", "int32_bias", label(node), False, why))
            continue
        if shift < 0:
            why = f"the int8 bias is 2^{-shift} times finer than the accumulator and was rounded to its steps"
            remarks.append(Decision("target", "int32_bias", label(node), True, why))
        grids[name, row.bias] = params
        constants[name, row.bias] = QuantParams.make(step, 0, "int32")
    return dataclasses.replace(plan, constants=constants, grids=grids, remarks=tuple(remarks))


def _step(node: ir.Node, plan: QuantPlan, weight: int) -> float:
    """Return s_x·s_w."""
    scales = []
    for index in (0, weight):
        value = node.inputs[index]
        assert value is not None
        params = plan.constants.get((node.name or "", index)) or plan.activations[value.name or ""]
        scales.append(float(params.scale))
    return scales[0] * scales[1]
