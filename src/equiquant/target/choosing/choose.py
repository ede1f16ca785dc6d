"""From statistics to parameters: one scale a group of activations, one a weight, one a bias.

A constant operand of an Add or a Concat is quantized like an activation, from its own values; one that an op merely
moves, or that is aligned, takes the parameters of its group, and one of a Min or Max those of the result: bounds per
channel may lie orders of magnitude above it, where nothing reaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.accumulate import HISTOGRAM_LIMIT
from equiquant.calibrate.stats import TensorStats
from equiquant.decisions import Decision
from equiquant.equalization.saturation import UNLIMITED, saturation
from equiquant.errors import DataError
from equiquant.graph.bounds import value_bounds
from equiquant.graph.query import attribute, constant, sole_consumer, values_by_name
from equiquant.hardware import is_hardware_factor
from equiquant.numerics.affine import QuantParams
from equiquant.numerics.parallel import parallel
from equiquant.numerics.ranges.chosen import ChosenRanges
from equiquant.recipe import Recipe
from equiquant.target.choosing import ranges
from equiquant.target.choosing.alignment import alignments
from equiquant.target.choosing.limits import Bound, Tensor, enforce, position
from equiquant.target.choosing.noise_costs import Cost, Use, from_table, power, relative_noise, summed
from equiquant.target.choosing.ranges import Evidence, activation_params, union
from equiquant.target.choosing.weights import bias_params, fit_weight_to_bias, weight_params
from equiquant.target.plan import QuantPlan
from equiquant.target.selecting.layers import sixteen_bit
from equiquant.target.selecting.survey import Group, Survey
from equiquant.target.table.ops import OpRow, activation_inputs, row_of, weight_axis, window_size

__all__ = ["choose", "counts_decide", "in_doubt", "missing"]

NOTHING_GIVEN = ChosenRanges({})
ORDERED = ("Min", "Max")  # a constant loses nothing on the grid of the result, on which everything is rounded anyway
ROOM = 2.0  # of 16-bit ranges over what was seen: what lies beyond costs more than half the resolution of 16 bits
HEADROOM = 1.5  # of outputs over what made-up inputs show: a network is surest of itself on what it was trained on


def choose(
    model: ir.Model,
    survey: Survey,
    stats: TensorStats,
    recipe: Recipe,
    given: ChosenRanges | None = None,
) -> QuantPlan:
    """Choose every scale, zero point and type, within the limits of the target.

    Args:
        model: The model that was surveyed; only read.
        survey: What to quantize.
        stats: Statistics of `missing(survey, given)`.
        recipe: The options.
        given: Ranges already chosen, by ("activation", "weight" or "bias", name of the tensor or node), and what the
            scales around them cost. Of everything else the relative noise of the tensor is what a scale costs.

    Raises:
        DataError: Statistics of a tensor are missing, or lack the histogram `minmse` needs.
    """
    chooser = _Chooser(model, survey, stats, recipe, given or NOTHING_GIVEN)
    activations = chooser.activations()
    wanted = set(survey.nodes)
    weights = chooser.weights([node for node in model.graph if node.name in wanted])
    constants: dict[tuple[str, int], Tensor] = {}
    for node in model.graph:
        row = row_of(node)
        if survey.target.factors and is_hardware_factor(node):
            continue  # its factor is what it is
        if row is not None and node.name in wanted:
            constants |= chooser.constants(node, row, activations, weights)
    target = survey.target
    limits = None
    if target.shifts or target.aligned:
        narrow = _eight_bit(model, survey)  # the shifts are those of 8-bit tensors
        limits = enforce(model, narrow, target.shifts, activations, constants, target.name)
        limits = limits.with_counts(*alignments(model, survey.nodes, target.aligned, chooser.alone))
    return QuantPlan(
        {name: t.params for name, t in activations.items() if constant(chooser.values[name]) is None},
        {key: t.params for key, t in constants.items()},
        survey.nodes,
        survey.kept_float,
        bias_gains={name: gains for (_, name), gains in (given or NOTHING_GIVEN).gains.items()},
        limits=limits,
        remarks=() if limits is None else tuple(map(_broken, limits.broken)),
    )


def _eight_bit(model: ir.Model, survey: Survey) -> tuple[str, ...]:
    """Return the quantized nodes that read and write no 16-bit tensor."""
    wide = {node.name for node in model.graph if not survey.wide.isdisjoint(_names(node))} if survey.wide else set()
    return tuple(name for name in survey.nodes if name not in wide)


def _names(node: ir.Node) -> set[str]:
    return {value.name or "" for value in (*node.inputs, *node.outputs) if value is not None}


def _broken(bound: Bound) -> Decision:
    reason = (
        f"the {bound.name} is {bound.value}, outside [{bound.low}, {bound.high}]: no scales satisfy this together with"
        " the other limits, and these are the closest"
    )
    return Decision("target", bound.option, bound.node, False, reason)


def missing(survey: Survey, given: ChosenRanges | None, *, synthetic: bool = False) -> tuple[str, ...]:
    """Return the tensors whose statistics are needed beside ranges already chosen.

    Args:
        survey: What to quantize.
        given: The ranges.
        synthetic: The statistics will be of made-up inputs: outputs get more room than those show.
    """
    open_ = survey.decided if synthetic else frozenset()
    groups = [group for group in survey.groups if _is_given(group, given or NOTHING_GIVEN, open_)]
    known = {name for group in groups for name in group.sources}
    return tuple(name for name in survey.calibrated if name not in known)


def counts_decide(survey: Survey, recipe: Recipe) -> bool:
    """True if histograms are sampled, and which of two scales has less error may hang on elements left out."""
    return not recipe.exact_histograms and survey.target.method == "minmse" and recipe.minmse_mode == "all"


def in_doubt(
    model: ir.Model, survey: Survey, stats: TensorStats, recipe: Recipe, least: float = 0.0
) -> tuple[str, ...]:
    """Return the tensors whose sampled histograms leave the scale of their group open; a full count decides.

    Args:
        model: The model that was surveyed; only read.
        survey: What to quantize.
        stats: Statistics, of those of its tensors that matter.
        recipe: The options.
        least: Relative difference of the errors of two scales that leaves them open in any case: more samples than
            the statistics are of may close it.
    """
    if not counts_decide(survey, recipe):
        return ()
    chooser = _Chooser(model, survey, stats, recipe, NOTHING_GIVEN)
    found: list[str] = []
    for group in survey.groups:
        if group.wide:
            continue
        mine = [name for name in group.sources if name in stats.tensors]
        evidence = [chooser.evidence(name, NOTHING_GIVEN) for name in mine]
        large = any(stats.tensors[name].count > HISTOGRAM_LIMIT * stats.samples for name in mine)
        unsigned = survey.unsigned.issuperset(mine)
        if large and ranges.in_doubt(union(evidence), survey.target, stats.samples, least, unsigned=unsigned):
            found += mine
    return tuple(found)


def _is_given(group: Group, given: ChosenRanges, open_: frozenset[str]) -> bool:
    if group.wide or not open_.isdisjoint(group.sources):
        return False
    return all(("activation", name) in given.ends for name in group.sources)


class _Chooser:
    """The choice tensor by tensor, each for itself."""

    def __init__(
        self,
        model: ir.Model,
        survey: Survey,
        stats: TensorStats,
        recipe: Recipe,
        given: ChosenRanges,
    ) -> None:
        self._survey, self._stats, self._recipe = survey, stats, recipe
        self._target, self._given = survey.target, given
        self.values = values_by_name(model)
        self._level: Mapping[str, tuple[float, float]] = {}
        if self._target.method == "noise":  # the other methods are what their names say
            spans = {name: (record.low, record.high) for name, record in stats.tensors.items()}
            self._level = saturation(self.values.values(), spans)
        if stats.synthetic and self._target.method == "noise":  # what is rare in made-up inputs may not be elsewhere
            self._target = self._target.unclipped
        self._open = survey.decided if stats.synthetic else frozenset[str]()  # outputs that will exceed the statistics
        self._evidence: dict[str, Evidence] = {}  # of every member of a group; of those calibrated, their own
        self._powers: dict[str, float] = {}  # mean squares, of those asked for
        self.alone: dict[str, int] = {}  # position of each source of a group of several, had it a scale of its own

    def activations(self) -> dict[str, Tensor]:
        """Return a tensor a group, by the names of its members."""
        found: dict[str, Tensor] = {}
        for group in self._survey.groups:
            given = self._given if _is_given(group, self._given, self._open) else NOTHING_GIVEN
            roomy = group.wide or (self._target.activation.bits == 16 and self._target.method == "noise")
            parts = {name: self.evidence(name, given, roomy=roomy) for name in group.sources}
            evidence = union(parts.values())
            self._evidence |= dict.fromkeys(group.members, evidence) | parts
            unsigned = self._survey.unsigned.issuperset(group.sources)
            target = sixteen_bit(self._target) if group.wide else self._target
            if roomy or not self._open.isdisjoint(group.sources):  # room is for what no histogram shows
                target = target.unclipped
            params = activation_params(
                evidence, target, self._recipe, group.sources[0], chosen=bool(given.ends), unsigned=unsigned
            )
            costs = [
                self._cost(("activation", name), part, params, partial(self._use, name)) for name, part in parts.items()
            ]
            tensor = Tensor(group.members[0], params, summed(costs))
            if len(parts) > 1 and self._target.aligned and not group.wide:
                self._compromise(tensor, parts, bool(given.ends), unsigned)
            found |= dict.fromkeys(group.members, tensor)
        return found

    def _compromise(self, tensor: Tensor, parts: Mapping[str, Evidence], chosen: bool, unsigned: bool) -> None:
        """Give tensors that must share a scale the one of least noise, between those each would have alone."""
        alone = {
            name: activation_params(part, self._target, self._recipe, name, chosen=chosen, unsigned=unsigned)
            for name, part in parts.items()
        }
        positions = {name: position(params) for name, params in alone.items()}
        self.alone |= positions
        if self._target.method == "minmse":  # the other one never overflows
            tried = range(min(positions.values()), max(positions.values()) + 1)  # of equals the coarsest
            tensor.move(min(tried, key=lambda p: tensor.cost(-p)))

    def weights(self, nodes: Sequence[ir.Node]) -> dict[str, Tensor]:
        """Return a tensor a constant weight, by the names of their nodes."""
        places = [(n, row.weight) for n in nodes if (row := row_of(n)) is not None and row.weight is not None]
        places = [(node, index) for node, index in places if constant(node.inputs[index]) is not None]
        found = parallel(lambda place: self._weight(*place), places)
        return {node.name or "": tensor for (node, _), tensor in zip(places, found, strict=True)}

    def _weight(self, node: ir.Node, index: int) -> Tensor:
        name, weight = node.name or "", constant(node.inputs[index])
        assert weight is not None
        axis = weight_axis(node, weight.ndim) if self._target.per_channel else None
        params = weight_params(weight, axis, self._target, self._end(("weight", name)) if axis is None else None)
        return Tensor(f"{name}[{index}]", params, self._cost(("weight", name), weight, params))

    def constants(
        self, node: ir.Node, row: OpRow, activations: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> dict[tuple[str, int], Tensor]:
        """Return a tensor a constant input of a node; `weights` from the method of that name."""
        name = node.name or ""
        found: dict[tuple[str, int], Tensor] = {}
        for index, value in activation_inputs(node, row):
            array = constant(value)
            if array is None:
                continue
            shared = activations.get(value.name or "")
            if shared is None and node.op_type in ORDERED:
                shared = activations.get(node.outputs[0].name or "")
            if shared is None:
                shared = self._operand(node, row, index, array)
            found[name, index] = shared
        if row.weight is not None:
            found |= self._weight_and_bias(node, row, found, activations, weights.get(name))
        return found

    def _operand(self, node: ir.Node, row: OpRow, index: int, array: npt.NDArray[Any]) -> Tensor:
        """Return a constant that is quantized like an activation: the factor of a Mul, what an Add adds."""
        name, evidence = node.name or "", Evidence.of_array(array, self._target)
        key = "weight" if node.op_type == "Mul" else "bias", name
        ends = None if row.weight is not None else self._given.ends.get(key)
        if ends is not None:
            high, low = ends[0], ends[-1]
            if self._target.scale_kind == "float":
                high, low = min(high, max(evidence.high, 0.0)), min(low, max(-evidence.low, 0.0))
            evidence = replace(evidence, low=-low, high=high)
        params = activation_params(evidence, self._target, self._recipe, name, chosen=ends is not None)
        added = node.op_type in ("Add", "Sub")
        cost = relative_noise(array, params, lambda: Use(self._signal(node.outputs[0]) if added else None))
        return Tensor(f"{name}[{index}]", params, cost if ends is None else self._cost(key, array, params))

    def _weight_and_bias(
        self,
        node: ir.Node,
        row: OpRow,
        operands: Mapping[tuple[str, int], Tensor],
        activations: Mapping[str, Tensor],
        weight: Tensor | None,
    ) -> dict[tuple[str, int], Tensor]:
        name, target = node.name or "", self._target
        found: dict[tuple[str, int], Tensor] = {}
        assert row.weight is not None
        weight_value = node.inputs[row.weight]
        assert weight_value is not None
        bias = constant(node.inputs[row.bias]) if row.bias is not None and len(node.inputs) > row.bias else None
        if weight is not None:
            found[name, row.weight] = weight
        if bias is None or row.bias is None:
            return found
        source = node.inputs[0]
        assert source is not None
        input_scale = (operands.get((name, 0)) or activations[source.name or ""]).params.scale
        step = float(input_scale) * _alpha(node)
        scale = (weight or activations[weight_value.name or ""]).params
        if _bias_fits(bias, step, scale):
            if weight is not None and target.bias.name == "int32":
                array = constant(weight_value)
                assert array is not None
                scale = weight.params = fit_weight_to_bias(scale, array, bias, step)
            params = bias_params(bias, step, scale, target, self._end(("bias", name)))
            cost = self._cost(("bias", name), bias, params, lambda: Use(self._signal(node.outputs[0])))
            found[name, row.bias] = Tensor(f"{name}[{row.bias}]", params, cost)
        return found

    def _end(self, key: tuple[str, str]) -> float | None:
        ends = self._given.ends.get(key)
        return None if ends is None else ends[0]

    def _cost(
        self,
        key: tuple[str, str],
        data: npt.NDArray[Any] | Evidence,
        params: QuantParams,
        use: Callable[[], Use] = Use,
    ) -> Cost:
        table = self._given.costs.get(key)
        return relative_noise(data, params, use) if table is None else from_table(table)

    def _use(self, name: str) -> Use:
        """Return what a tensor disappears in, if nothing else reads it: sums, or averages."""
        readers = [use.node for use in self.values[name].uses()]
        kinds = {node.op_type for node in readers}
        averaged = 1
        if kinds and kinds <= {"AveragePool", "GlobalAveragePool"}:
            averaged = min(window_size(node) for node in readers)
        elif not kinds or not kinds <= {"Add", "Sub", "Sum"}:
            return Use()
        signals = [self._signal(node.outputs[0]) for node in readers]
        return Use(min((power for power in signals if power is not None), default=None), averaged)

    def _signal(self, value: ir.Value) -> float | None:
        """Return the mean square of a node's output, behind what is fused into it; None where it is unknown."""
        while (value.name or "") not in self._evidence:
            reader = sole_consumer(value)
            if reader is None:
                return None
            value = reader.outputs[0]
        name = value.name or ""
        if name not in self._powers:
            self._powers[name] = power(self._evidence[name])
        return self._powers[name] or None

    def evidence(self, name: str, given: ChosenRanges, *, roomy: bool = False) -> Evidence:
        """Return what is known of a tensor; if `roomy`, with room for values beyond those seen."""
        value = self.values[name]
        array = constant(value)
        if array is not None:
            return Evidence.of_array(array, self._target)
        ends = given.ends.get(("activation", name))
        record = self._stats.tensors.get(name)
        if ends is not None:
            evidence = Evidence(-ends[1] if len(ends) > 1 else 0.0, ends[0])
            if not roomy:
                return evidence
        elif record is not None:
            evidence = Evidence.of_record(record, self._stats.recounted.get(name))
        else:
            raise DataError(f"There are no statistics of '{name}'; calibrate the model that is quantized.")
        room = max(ROOM if roomy else 1.0, HEADROOM if name in self._open else 1.0)
        if room > 1:
            evidence = replace(evidence, low=room * evidence.low, high=room * evidence.high)
        low, high = value_bounds(value)
        above, below = self._level.get(name, UNLIMITED)
        return evidence.clipped(max(low, -below), min(high, above))


def _alpha(node: ir.Node) -> float:
    return float(attribute(node, "alpha", 1.0)) if node.op_type == "Gemm" else 1.0


def _bias_fits(bias: npt.NDArray[Any], step: float, weight: QuantParams) -> bool:
    """False where the bias stays float: alpha is not positive, or its channels are not the weight's.

    Gemm's beta multiplies the dequantized bias, so it needs nothing here; onnxruntime runs such a Gemm in float.
    """
    if step <= 0 or not bias.size:
        return False
    return weight.axis is None or (bias.ndim > 0 and bias.shape[-1] == weight.scale.size)
