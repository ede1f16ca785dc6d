"""From statistics to parameters: one scale a group of activations, one a weight, one a bias.

A constant operand of an Add or a Concat is quantized like an activation, from its own values; one that an op merely
moves, or that is aligned, takes the parameters of its group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.accumulate import HISTOGRAM_LIMIT
from equiquant.calibrate.stats import TensorStats
from equiquant.errors import DataError
from equiquant.graph.query import attribute, constant
from equiquant.hardware import is_hardware_factor
from equiquant.numerics.affine import QuantParams
from equiquant.recipe import Recipe
from equiquant.target import ranges
from equiquant.target.ops import OpRow, activation_inputs, row_of, weight_axis
from equiquant.target.plan import QuantPlan
from equiquant.target.ranges import Evidence, activation_params, clip_bounds, union
from equiquant.target.survey import Survey
from equiquant.target.targets import Target
from equiquant.target.weights import bias_params, fit_weight_to_bias, weight_params

__all__ = ["GivenRanges", "choose", "in_doubt"]

GivenRanges = Mapping[tuple[str, str], tuple[float, ...]]


def choose(
    model: ir.Model, survey: Survey, stats: TensorStats, recipe: Recipe, given: GivenRanges | None = None
) -> QuantPlan:
    """Choose every scale, zero point and type.

    Args:
        model: The model that was surveyed; only read.
        survey: What to quantize.
        stats: Statistics of `survey.calibrated`.
        recipe: The options.
        given: Ranges already chosen, per side of 0, by ("activation" or "weight", name of the tensor or node); they
            need no statistics.

    Raises:
        DataError: Statistics of a tensor are missing, or lack the histogram `minmse` needs.
    """
    values = {v.name or "": v for v in (*model.graph.inputs, *model.graph.initializers.values())}
    values |= {v.name or "": v for node in model.graph for v in node.outputs}
    shared: dict[str, QuantParams] = {}
    for group in survey.groups:
        evidence = union(_evidence(values[name], stats, survey.target, given or {}) for name in group.sources)
        chosen = all(("activation", name) in (given or {}) for name in group.sources)
        params = activation_params(evidence, survey.target, recipe, group.sources[0], chosen=chosen)
        shared |= dict.fromkeys(group.members, params)
    wanted = set(survey.nodes)
    constants: dict[tuple[str, int], QuantParams] = {}
    for node in model.graph:
        row = row_of(node)
        if survey.target.factors and is_hardware_factor(node):
            continue  # its factor is what it is
        if row is not None and node.name in wanted:
            constants |= _constants(node, row, shared, survey.target, recipe, given or {})
    activations = {name: p for name, p in shared.items() if constant(values[name]) is None}
    return QuantPlan(activations, constants, survey.nodes, survey.kept_float)


def in_doubt(model: ir.Model, survey: Survey, stats: TensorStats, recipe: Recipe) -> tuple[str, ...]:
    """Return the tensors whose sampled histograms leave the scale of their group open; a full count decides.

    Args:
        model: The model that was surveyed; only read.
        survey: What to quantize.
        stats: Statistics, of those of its tensors that matter.
        recipe: The options.
    """
    if recipe.exact_histograms or survey.target.method != "minmse":
        return ()
    values = {v.name or "": v for v in (*model.graph.inputs, *model.graph.initializers.values())}
    values |= {v.name or "": v for node in model.graph for v in node.outputs}
    found: list[str] = []
    for group in survey.groups:
        mine = [name for name in group.sources if name in stats.tensors]
        evidence = [_evidence(values[name], stats, survey.target, {}) for name in group.sources if name in mine]
        large = any(stats.tensors[name].count > HISTOGRAM_LIMIT * stats.samples for name in mine)
        if large and ranges.in_doubt(union(evidence), survey.target, recipe, stats.samples):
            found += mine
    return tuple(found)


def _evidence(value: ir.Value, stats: TensorStats, target: Target, given: GivenRanges) -> Evidence:
    array = constant(value)
    if array is not None:
        return Evidence.of_array(array, target)
    ends = given.get(("activation", value.name or ""))
    if ends is not None:
        return Evidence(-ends[1] if len(ends) > 1 else 0.0, ends[0])
    record = stats.tensors.get(value.name or "")
    if record is None:
        raise DataError(f"There are no statistics of '{value.name}'; calibrate the model that is quantized.")
    evidence = Evidence.of_record(record, stats.recounted.get(value.name or ""))
    producer = value.producer()
    return evidence if producer is None else evidence.clipped(*clip_bounds(producer))


def _constants(
    node: ir.Node,
    row: OpRow,
    shared: Mapping[str, QuantParams],
    target: Target,
    recipe: Recipe,
    given: GivenRanges,
) -> dict[tuple[str, int], QuantParams]:
    """Return the parameters of a node's constant inputs."""
    name = node.name or ""
    found: dict[tuple[str, int], QuantParams] = {}
    for index, value in activation_inputs(node, row):
        array = constant(value)
        if array is not None:
            params = shared.get(value.name or "")
            evidence = Evidence.of_array(array, target)
            found[name, index] = params or activation_params(evidence, target, recipe, value.name or "")
    if row.weight is not None:
        found |= _weight_and_bias(node, row, found, shared, target, given)
    return found


def _weight_and_bias(
    node: ir.Node,
    row: OpRow,
    operands: Mapping[tuple[str, int], QuantParams],
    shared: Mapping[str, QuantParams],
    target: Target,
    given: GivenRanges,
) -> dict[tuple[str, int], QuantParams]:
    name = node.name or ""
    found: dict[tuple[str, int], QuantParams] = {}
    assert row.weight is not None
    weight_value = node.inputs[row.weight]
    assert weight_value is not None
    weight = constant(weight_value)
    bias = constant(node.inputs[row.bias]) if row.bias is not None and len(node.inputs) > row.bias else None
    if weight is not None:
        axis = weight_axis(node, weight.ndim) if target.per_channel else None
        ends = given.get(("weight", name)) if axis is None else None
        found[name, row.weight] = weight_params(weight, axis, target, None if ends is None else ends[0])
    if bias is None or row.bias is None:
        return found
    source = node.inputs[0]
    assert source is not None
    input_scale = (operands.get((name, 0)) or shared[source.name or ""]).scale
    step = float(input_scale) * _alpha(node)
    scale = found.get((name, row.weight)) or shared[weight_value.name or ""]
    if _bias_fits(bias, step, scale):
        if weight is not None and target.bias.name == "int32":
            scale = found[name, row.weight] = fit_weight_to_bias(scale, weight, bias, step)
        ends = given.get(("bias", name))
        found[name, row.bias] = bias_params(bias, step, scale, target, None if ends is None else ends[0])
    return found


def _alpha(node: ir.Node) -> float:
    return float(attribute(node, "alpha", 1.0)) if node.op_type == "Gemm" else 1.0


def _bias_fits(bias: npt.NDArray[Any], step: float, weight: QuantParams) -> bool:
    """False where the bias stays float: alpha is not positive, or its channels are not the weight's.

    Gemm's beta multiplies the dequantized bias, so it needs nothing here; onnxruntime runs such a Gemm in float.
    """
    if step <= 0 or not bias.size:
        return False
    return weight.axis is None or (bias.ndim > 0 and bias.shape[-1] == weight.scale.size)
