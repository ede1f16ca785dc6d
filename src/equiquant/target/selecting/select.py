"""Which nodes the user wants quantized: names, globs, `re:` patterns, op types, and subgraphs that stay float.

A pattern is, in this order, an exact node name, a regular expression after `re:` (it must match the whole name), or a
glob.
A pattern that matches nothing is an error: a misspelt exclusion would otherwise quantize the node in silence.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from equiquant.errors import OptionError, nearest
from equiquant.io import is_operator
from equiquant.recipe import Recipe
from equiquant.target.selecting.float_regions import BETWEEN_FLOAT, FOR_EXCLUDED, float_region, for_excluded
from equiquant.target.selecting.front_ends import FRONT_END, front_ends
from equiquant.target.selecting.indices import index_nodes
from equiquant.target.selecting.refusal import data_type, refusal
from equiquant.target.table.ops import OPS, row_of
from equiquant.target.table.targets import Target, target_of

__all__ = ["IN_BODY", "deselected", "excluded", "float_beside", "left_float", "match_names", "names_matched"]

IN_BODY = "inside the body of an If, Loop or Scan"
"""Why a node stays float that no option can change."""


def match_names(patterns: Sequence[str], names: Sequence[str], option: str) -> dict[str, str]:
    """Return name to the pattern that matched it.

    Args:
        patterns: Exact names, globs or `re:` expressions.
        names: All node names.
        option: The option the patterns come from, for the error.

    Raises:
        OptionError: A pattern matches no name, or is not a valid regular expression.

    >>> match_names(["conv*"], ["conv1", "fc"], "nodes_to_exclude")
    {'conv1': 'conv*'}
    """
    known, found = dict.fromkeys(names), dict[str, str]()
    for pattern in patterns:
        matched = names_matched(pattern, known, option)
        if not matched:
            raise OptionError(f"{option}: '{pattern}' matches no node of the model.{nearest(pattern, names)}")
        for name in matched:
            found.setdefault(name, pattern)
    return found


def names_matched(pattern: str, names: Collection[str], option: str) -> list[str]:
    """Return the names that a pattern matches, none if there are none.

    Raises:
        OptionError: The pattern is not a valid regular expression.
    """
    if pattern in names:
        return [pattern]
    if not pattern.startswith("re:"):
        return [n for n in names if fnmatchcase(n, pattern)]
    try:
        expression = re.compile(pattern[3:])
    except re.error as error:
        raise OptionError(f"{option}: '{pattern}' is not a valid regular expression: {error}.") from error
    return [n for n in names if expression.fullmatch(n)]


def deselected(model: ir.Model, recipe: Recipe, target: Target) -> dict[str, str]:
    """Return node name to the reason the options, or the target's list of ops, leave it float.

    Raises:
        OptionError: A name or op type matches nothing, or a subgraph's ends are not connected.
    """
    nodes = list(model.graph)
    names = [n.name or "" for n in model.graph.all_nodes()]
    result: dict[str, str] = {}
    for name, pattern in match_names(recipe.nodes_to_exclude, names, "nodes_to_exclude").items():
        result[name] = f"nodes_to_exclude names it ('{pattern}')"
    for start, end in recipe.subgraphs_to_exclude:
        for name in _between(nodes, names, start, end):
            result.setdefault(name, f"subgraphs_to_exclude: between {', '.join(start)} and {', '.join(end)}")
    if recipe.nodes_to_quantize:
        wanted = match_names(recipe.nodes_to_quantize, names, "nodes_to_quantize")
        for name in names:
            if name not in wanted:
                result.setdefault(name, "not among nodes_to_quantize")
    types = _op_types(model, recipe)
    for node in model.graph.all_nodes():
        if types is not None and node.op_type not in types:
            result.setdefault(node.name or "", f"'{node.op_type}' is not among op_types_to_quantize")
        elif types is None and node.op_type not in target.quantized:
            result.setdefault(node.name or "", f"'{node.op_type}' stays float on this target")
    return result


def excluded(left_out: Mapping[str, str]) -> frozenset[str]:
    """Return the names of those among deselected nodes that the options exclude one by one, or as a subgraph."""
    options = ("nodes_to_exclude", "subgraphs_to_exclude")
    return frozenset(name for name, why in left_out.items() if why.startswith(options))


def float_beside(
    nodes: Sequence[ir.Node], left_out: Mapping[str, str], recipe: Recipe, target: Target
) -> dict[ir.Node, str]:
    """Return the nodes that stay float for what is beside them, and why; none where names or op types are given.

    Args:
        nodes: Those of a graph, in topological order; what computes indices left out.
        left_out: What `deselected` returned.
        recipe: The options.
        target: What is quantized for.
    """
    names = [node.name or "" for node in nodes]
    asked = {n for pattern in recipe.nodes_to_int16 for n in names_matched(pattern, names, "nodes_to_int16")}
    if recipe.nodes_to_quantize or recipe.op_types_to_quantize:
        return {}
    found = dict.fromkeys(for_excluded(nodes, excluded(left_out), target), FOR_EXCLUDED)
    found |= dict.fromkeys(float_region(nodes), BETWEEN_FLOAT)
    return found | dict.fromkeys(front_ends(nodes, asked), FRONT_END)


def left_float(model: ir.Model, recipe: Recipe) -> frozenset[str]:
    """Return the names of the nodes that stay float whatever the target can run.

    That is by the options, for a reason of their own, as indices, or for what is beside them. A node without a
    row has none of its own: it counts if it does not compute in float32.

    Raises:
        OptionError: As `deselected`.
    """
    every = dataclasses.replace(target_of(recipe), quantized=frozenset(n.op_type for n in model.graph.all_nodes()))
    nodes = list(model.graph)
    indices = index_nodes(nodes)
    computing = [node for node in nodes if node not in indices]
    left_out = deselected(model, recipe, every)
    beside = float_beside(computing, left_out, recipe, every)
    kept = [node for node in nodes if node in indices or node in beside or _refused(node)]
    return frozenset(left_out) | {node.name or "" for node in kept}


def _refused(node: ir.Node) -> bool:
    if row_of(node) is None:
        return data_type(node.outputs[0]) != ir.DataType.FLOAT
    return refusal(node) is not None


def _op_types(model: ir.Model, recipe: Recipe) -> frozenset[str] | None:
    """Check the op types asked for: those this model lacks are no error, nor are others beside one that can be had."""
    if not recipe.op_types_to_quantize:
        return None
    present = {n.op_type for n in model.graph.all_nodes()}
    for op in recipe.op_types_to_quantize:
        if op not in present | set(OPS) and not is_operator(op):
            raise OptionError(f"op_types_to_quantize: '{op}' matches no op type.{nearest(op, present | set(OPS))}")
    if not any(op in OPS for op in recipe.op_types_to_quantize):
        asked = ", ".join(f"'{op}'" for op in recipe.op_types_to_quantize)
        raise OptionError(f"op_types_to_quantize: {asked} cannot be quantized. Known: {', '.join(OPS)}.")
    return frozenset(recipe.op_types_to_quantize)


def _between(nodes: Sequence[ir.Node], names: Sequence[str], start: Sequence[str], end: Sequence[str]) -> set[str]:
    """Return the names of the nodes on a path from a start node to an end node, both ends included."""
    option = "subgraphs_to_exclude"
    if not start or not end:
        raise OptionError(f"{option}: each entry is (start nodes, end nodes), neither of them empty.")
    starts, ends = match_names(start, names, option), match_names(end, names, option)
    below = _reach([n for n in nodes if n.name in starts], lambda n: n.successors())
    above = _reach([n for n in nodes if n.name in ends], lambda n: n.predecessors())
    inside = {n.name or "" for n in below & above}
    if not inside:
        raise OptionError(f"{option}: no path leads from {', '.join(start)} to {', '.join(end)}.")
    return inside


def _reach(seeds: Iterable[ir.Node], step: Callable[[ir.Node], Iterable[ir.Node]]) -> set[ir.Node]:
    seen = set(seeds)
    stack = list(seen)
    while stack:
        for other in step(stack.pop()):
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return seen
