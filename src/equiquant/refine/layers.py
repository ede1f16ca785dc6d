"""The layers that can be refined: quantized, with a constant weight, and an input that varies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.graph.edit import WRAPPING
from equiquant.graph.query import LINEAR_OPS, attribute, constant, label, rank
from equiquant.graph.varying import varying
from equiquant.numerics.affine import QuantParams
from equiquant.refine.forms import Form, form_of
from equiquant.target.plan import QuantPlan

__all__ = ["LARGEST", "Layer", "layers_of", "mean_inputs"]

Array = npt.NDArray[Any]

LARGEST = 8192  # inputs of an output, above which their second moments would take gigabytes


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer.

    Attributes:
        name: The node's.
        form: Its matrices.
        weight: The float weight, as stored.
        bias: (outputs,) the float bias; zeros where there is none.
        weight_params: How the weight is quantized.
        bias_params: How the bias is quantized; None for a float bias, or where there is none.
        input_params: How the input is quantized.
        bias_gains: (outputs,) how much an error of each channel's bias counts; ones where nobody knows.
        late_bias: The bias is yet to come, and so is its scale: of `bias_params` only the type counts.
    """

    name: str
    form: Form
    weight: Array
    bias: Array
    weight_params: QuantParams
    bias_params: QuantParams | None
    input_params: QuantParams
    bias_gains: Array
    late_bias: bool = False

    @property
    def takes_bias(self) -> bool:
        """True if the operator has an input for a bias."""
        return self.form.op_type != "MatMul"

    @property
    def roundable(self) -> bool:
        """True if its weights can be rounded for its inputs; else each goes to the nearest step."""
        return self.form.inputs <= LARGEST

    @property
    def accumulator_step(self) -> float:
        """Real units per step of the products: |alpha|·s_x·s_w, with the largest s_w of a per-channel weight."""
        return float(self.input_params.scale) * float(np.max(self.weight_params.scale)) * abs(self.form.gain)

    @property
    def fine_bias(self) -> bool:
        """True if the bias is so fine that its rounding does not matter."""
        return self.takes_bias and (self.bias_params is None or self.bias_params.type.name == "int32")


def layers_of(model: ir.Model, plan: QuantPlan) -> tuple[list[Layer], list[Decision]]:
    """Return the layers in graph order, and why the others stay as they are."""
    if any(node.op_type in WRAPPING for node in model.graph):
        reason = "it has sequences or optional values between its layers, at which it cannot be taken apart"
        return [], [Decision("refine", "layer", "whole network", False, reason)]
    layers, refused = [], []
    unlike = varying(model)
    for node in model.graph:
        if node.op_type not in LINEAR_OPS or node.domain != "" or (node.name or "", 1) not in plan.constants:
            continue
        layer = "how much it reads depends on the numbers" if node.outputs[0] in unlike else _layer(node, plan)
        if isinstance(layer, str):
            refused.append(Decision("refine", "layer", label(node), False, layer))
        else:
            layers.append(layer)
    return layers, refused


def mean_inputs(model: ir.Model) -> dict[str, int]:
    """Return the tensors whose means tell what a layer's rounded weights do to its own, with their channel axis."""
    found = {}
    for node in model.graph:
        if node.op_type not in LINEAR_OPS - {"MatMul"} or node.domain != "" or constant(node.inputs[1]) is None:
            continue
        source = node.inputs[0]
        if source is not None and constant(source) is None and not attribute(node, "transA", 0):
            found[source.name or ""] = 1
    return found


def _layer(node: ir.Node, plan: QuantPlan) -> Layer | str:
    name, source = node.name or "", node.inputs[0]
    weight = constant(node.inputs[1])
    assert weight is not None
    assert source is not None
    if source.name not in plan.activations:
        return "its input is a constant"
    if node.op_type == "MatMul" and (rank(source) or 0) < 2:
        return "its input is a vector, or of unknown rank"
    form = form_of(node, weight)
    if isinstance(form, str):
        return form
    value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant(value)
    if bias is None and value is not None:
        return "its bias is computed"
    if bias is not None and bias.size > 1 and (bias.size, bias.shape[-1]) != (form.outputs, form.outputs):
        return "its bias is a matrix"
    full = np.zeros(form.outputs, np.float32) if bias is None else np.broadcast_to(bias.ravel(), (form.outputs,))
    params = plan.constants.get((name, 2))
    gains = _bias_gains(plan.bias_gains.get(name, ()), form.outputs)
    return Layer(name, form, weight, full, plan.constants[name, 1], params, plan.activations[source.name or ""], gains)


def _bias_gains(known: Sequence[float], outputs: int) -> Array:
    gains = np.asarray(known, np.float64)
    return gains if gains.size == outputs and gains.any() else np.ones(outputs)
