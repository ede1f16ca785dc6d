"""The survey: which nodes and tensors will be quantized, and which tensors share one scale, before any statistics.

A tensor is quantized if a quantized node reads it, or if a quantized node produces it and has no kernel with a float
result. Tensors an op only moves data between are united (union-find); one range serves them all, taken from the
sources: the members no op of the group produces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import onnx_ir as ir

from equiquant.errors import ModelError, OptionError
from equiquant.graph.decisions import decision_values
from equiquant.graph.query import attribute, constant, origin, sole_consumer, values_by_name
from equiquant.hardware import gemm_factors, is_hardware_factor
from equiquant.recipe import Recipe
from equiquant.target.selecting.indices import BECOMES_INDEX, index_nodes
from equiquant.target.selecting.layers import layers
from equiquant.target.selecting.refusal import overridable, refusal
from equiquant.target.selecting.select import IN_BODY, deselected, excluded, float_beside, match_names
from equiquant.target.selecting.signs import never_negative
from equiquant.target.table.ops import OpRow, activation_inputs, data_outputs, has_weight, moves_data, row_of
from equiquant.target.table.targets import Target, target_of

__all__ = ["Group", "Survey", "survey"]

KEEPS_FACTORS = "its alpha and beta are not part of constants, and the NPU multiplies by neither"


@dataclass(frozen=True)
class Group:
    """Tensors that share one scale and zero point.

    Attributes:
        members: Value names, constants included, in graph order.
        sources: The members whose ranges cover all the others.
        wide: Stored as 16 bits where the others have 8.
    """

    members: tuple[str, ...]
    sources: tuple[str, ...]
    wide: bool = False


@dataclass(frozen=True, eq=False)
class Survey:
    """What will be quantized.

    Attributes:
        target: What it is quantized for.
        nodes: Names of the quantized nodes, fused activations included, in graph order.
        groups: Every quantized tensor, in the group it shares its parameters with.
        calibrated: Names of the tensors whose statistics are needed, in graph order.
        kept_float: Node name to the reason it stays float.
        unsigned: Names of the calibrated tensors that are never negative and may use the whole range of their type.
        decided: Names of the calibrated tensors that the outputs of the network are decided by.
    """

    target: Target
    nodes: tuple[str, ...]
    groups: tuple[Group, ...]
    calibrated: tuple[str, ...]
    kept_float: Mapping[str, str]
    unsigned: frozenset[str] = frozenset()
    decided: frozenset[str] = frozenset()

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the quantized tensors."""
        return _members(self.groups)

    @property
    def wide(self) -> frozenset[str]:
        """Names of the tensors stored as 16 bits where the others have 8."""
        return _members(g for g in self.groups if g.wide)

    @property
    def unshared(self) -> frozenset[str]:
        """Names of the tensors that share their parameters with none that has other values, the wide ones left out."""
        return frozenset(g.sources[0] for g in self.groups if len(g.sources) == 1 and not g.wide)


def _members(groups: Iterable[Group]) -> frozenset[str]:
    return frozenset(name for group in groups for name in group.members)


def survey(model: ir.Model, recipe: Recipe) -> Survey:
    """Decide what to quantize; the model is only read.

    Args:
        model: The float model, shapes and types inferred, every node named uniquely.
        recipe: The options.

    Raises:
        OptionError: A node name or op type of the options matches nothing.
        ModelError: Nothing can be quantized.
    """
    target = target_of(recipe)
    nodes = list(model.graph)
    left_out = deselected(model, recipe, target)
    indices = index_nodes(nodes)
    chosen, kept = _choose(nodes, left_out, indices, target)
    computing = [node for node in nodes if node not in indices]
    beside = float_beside(computing, left_out, recipe, target)
    for node in computing:
        if node in beside and chosen.pop(node, None) is not None:
            kept[node.name or ""] = beside[node]
    fused = _fuse(computing, chosen, kept, excluded(left_out), target)
    _drop_lazy(nodes, chosen, fused, kept, target)
    _check_defaults([node for node in nodes if (node.name or "") not in left_out], recipe)
    if not chosen:
        raise ModelError(_nothing(model, kept))
    groups = _groups(nodes, chosen, fused, target)
    followers = set(fused.values())
    quantized = tuple(n.name or "" for n in nodes if n in chosen or n in followers)
    if recipe.nodes_to_int16:
        groups = _widen(model, groups, quantized, recipe)
    values = values_by_name(model)
    calibrated = tuple(s for g in groups for s in g.sources if constant(values[s]) is None)
    positive = never_negative(model) if recipe.unsigned_relu else frozenset()
    unsigned = (group.sources for group in groups if positive.issuperset(group.sources))
    ends = set(decision_values(model))
    decided = (group.sources for group in groups if not ends.isdisjoint(group.members))
    return Survey(
        target,
        quantized,
        groups,
        calibrated,
        _reasons(model, kept),
        frozenset(chain(*unsigned)),
        frozenset(chain(*decided)),
    )


def _choose(
    nodes: Sequence[ir.Node], left_out: Mapping[str, str], indices: Collection[ir.Node], target: Target
) -> tuple[dict[ir.Node, OpRow], dict[str, str]]:
    """Return the nodes that can be quantized, as each by itself tells, and why the others stay float."""
    kept: dict[str, str] = {}
    chosen: dict[ir.Node, OpRow] = {}
    for node in nodes:
        reason = left_out.get(node.name or "") or refusal(node)
        if reason is None and node in indices:
            reason = BECOMES_INDEX
        if reason is None and target.factors and gemm_factors(node):
            reason = KEEPS_FACTORS
        row = row_of(node)
        if reason is None and row is not None:
            chosen[node] = row
        else:
            kept[node.name or ""] = reason or "not in the op table"
    return chosen, kept


def _reasons(model: ir.Model, kept: Mapping[str, str]) -> dict[str, str]:
    """Return why nodes stay float, with those in bodies, and without Constants, which compute nothing."""
    inside = {node.name or "": IN_BODY for node in model.graph.all_nodes() if node.graph is not model.graph}
    constants = {node.name for node in model.graph if node.op_type == "Constant"}
    return {name: why for name, why in {**kept, **inside}.items() if name not in constants}


def _widen(model: ir.Model, groups: tuple[Group, ...], nodes: tuple[str, ...], recipe: Recipe) -> tuple[Group, ...]:
    """Mark the groups that a layer of `nodes_to_int16` reads or writes."""
    option = "nodes_to_int16"
    matched = match_names(recipe.nodes_to_int16, [n.name or "" for n in model.graph.all_nodes()], option)
    found = [x for x in layers(model, nodes, _members(groups)) if x.name in matched]
    useless = set(recipe.nodes_to_int16) - {matched[layer.name] for layer in found}
    if useless:
        raise OptionError(f"{option}: '{min(useless)}' names no quantized Conv, ConvTranspose, Gemm or MatMul.")
    wide = {name for layer in found for name in (*layer.inputs, *layer.outputs)}
    return tuple(replace(g, wide=not wide.isdisjoint(g.members)) for g in groups)


def _check_defaults(asked: Sequence[ir.Node], recipe: Recipe) -> None:
    """Refuse a model of whose layers none is left because weights are inputs: the rest is not worth quantizing.

    Args:
        asked: The nodes that the options leave to quantize.
        recipe: The options.
    """
    weighted = [node for node in asked if has_weight(node) and not _scales_channels(node)]
    defaults = [value for node in weighted if (value := overridable(node)) is not None]
    if weighted and len(defaults) == len(weighted):
        cure = "" if recipe.optimize else ", or leave optimize on: it does so where a model lists all its constants"
        raise ModelError(
            f"The caller can override constants of every layer, for example '{defaults[0].name}' of"
            f" '{weighted[0].name}': all stay float. Remove from the graph inputs what is no input of the model{cure}."
        )


def _scales_channels(node: ir.Node) -> bool:
    """True of a depthwise Conv of one tap, such as a BatchNormalization becomes for an NPU."""
    weight = constant(node.inputs[1]) if node.op_type == "Conv" else None
    return weight is not None and weight.size == weight.shape[0] == attribute(node, "group", 1)


def _nothing(model: ir.Model, kept: Mapping[str, str]) -> str:
    inside = [n for n in model.graph.all_nodes() if n.graph is not model.graph and has_weight(n)]
    if inside and not any(has_weight(node) for node in model.graph):
        return (
            f"The layers of this model, for example '{inside[0].name}', are inside the body of an If, Loop or Scan,"
            " which is not quantized. Export what you run of it as a model of its own."
        )
    name, why = next(((n, w) for n, w in kept.items()), ("", ""))
    example = f" For example '{name}': {why}." if name else ""
    return f"The model has no node that can be quantized with these options.{example}"


def _fuse(
    nodes: list[ir.Node],
    chosen: dict[ir.Node, OpRow],
    kept: dict[str, str],
    apart: frozenset[str],
    target: Target,
) -> dict[ir.Node, ir.Node]:
    """Return each producer with the activation fused into it; a fused activation follows its producer in or out.

    The Min of a constant behind a fused Relu is the second half of a ReLU with a bound per channel: fused as well. So
    is the factor the NPU multiplies a mean by before it rounds it.
    An activation excluded by name, or inside an excluded subgraph, stays on its own.
    """
    fused: dict[ir.Node, ir.Node] = {}
    for node in nodes:
        source = node.inputs[0] if node.inputs else None
        if node.domain != "" or source is None:
            continue
        host = source.producer()
        if host is None or sole_consumer(source) is not node or not _may_fuse(node, host, chosen, fused, target):
            continue
        if node.name in apart:
            continue
        fused[host] = node
        chosen.pop(node, None)
        kept.pop(node.name or "", None)
    return fused


def _may_fuse(
    node: ir.Node, host: ir.Node, chosen: Mapping[ir.Node, OpRow], fused: Mapping[ir.Node, ir.Node], target: Target
) -> bool:
    if node.op_type == "Min" and host.op_type == "Relu":
        return host in fused.values() and len(node.inputs) == 2 and constant(node.inputs[1]) is not None
    if target.factors and is_hardware_factor(node):
        return host in chosen
    return node.op_type in target.fused and host in chosen and chosen[host].hosts


def _results(node: ir.Node, fused: Mapping[ir.Node, ir.Node]) -> tuple[ir.Value, ...]:
    """Return the values a node hands on: those of the last activation fused into it, where there is one."""
    while node in fused:
        node = fused[node]
    return data_outputs(node)


def _is_read(value: ir.Value, chosen: Mapping[ir.Node, OpRow]) -> bool:
    """True if a quantized node reads the value as an activation."""
    return any(
        row is not None and any(i == use.idx for i, _ in activation_inputs(use.node, row))
        for use in value.uses()
        for row in (chosen.get(use.node),)
    )


def _drop_lazy(
    nodes: list[ir.Node],
    chosen: dict[ir.Node, OpRow],
    fused: dict[ir.Node, ir.Node],
    kept: dict[str, str],
    target: Target,
) -> None:
    """Leave float what gains nothing: results nobody reads as integers, last ones first.

    That is an op without weights the target calls lazy, or, on any target, one that moves data which starts as float.
    """
    for node in reversed(nodes):
        row = chosen.get(node)
        if row is None or any(_is_read(value, chosen) for value in _results(node, fused)):
            continue
        if node.op_type in target.lazy or (moves_data(node) and _moves_float(node, chosen, fused)):
            del chosen[node]
            kept[node.name or ""] = "its result is only read in float"


def _moves_float(node: ir.Node, chosen: Mapping[ir.Node, OpRow], fused: Mapping[ir.Node, ir.Node]) -> bool:
    """True if what the node moves was not computed by a quantized node."""
    source = origin(node.outputs[0], lambda n: n in chosen and moves_data(n))
    return source is None or (source not in chosen and source not in fused.values())


class _UnionFind:
    """Disjoint sets of values, in order of first appearance."""

    def __init__(self) -> None:
        self.parent: dict[ir.Value, ir.Value] = {}

    def find(self, value: ir.Value) -> ir.Value:
        self.parent.setdefault(value, value)
        root = value
        while self.parent[root] is not root:
            root = self.parent[root]
        while self.parent[value] is not root:
            self.parent[value], value = root, self.parent[value]
        return root

    def unite(self, first: ir.Value, second: ir.Value) -> None:
        self.parent[self.find(second)] = self.find(first)


def _groups(
    nodes: list[ir.Node], chosen: Mapping[ir.Node, OpRow], fused: Mapping[ir.Node, ir.Node], target: Target
) -> tuple[Group, ...]:
    sets = _UnionFind()
    derived: set[ir.Value] = set()  # values some op of their own group produces
    for node in nodes:
        row = chosen.get(node)
        if row is None:
            continue
        inputs = [value for _, value in activation_inputs(node, row)]
        results = _results(node, fused)
        moves = moves_data(node)
        shares = moves or node.op_type in target.aligned
        # A constant operand has parameters of its own at every reader, unless it shares them.
        for value in inputs:
            if shares or constant(value) is None:
                sets.find(value)
        if shares:
            if moves or node.op_type == "Concat":  # no value the inputs lack; an average needs a range of its own
                derived.update(results)
            for value in (*inputs, *results):
                sets.unite(inputs[0], value)
        else:
            for value in results:
                if node.op_type not in target.float_output or _is_read(value, chosen):
                    sets.find(value)
    members: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for value in sets.parent:
        members[sets.find(value)].append(value)
    return tuple(
        Group(tuple(v.name or "" for v in group), tuple(v.name or "" for v in group if v not in derived))
        for group in members.values()
    )
