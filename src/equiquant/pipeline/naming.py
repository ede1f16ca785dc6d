"""Follow the nodes that options name through the folds: what is named may be part of another node afterwards.

A fold keeps the names of the values it computes, so the node that makes a value now has taken the place of the one that
made it before. A BatchNormalization kept float by its name is a Conv then, and that one stays float. A call of
one of the model's functions is followed to all that its nodes make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.errors import ModelError, OptionError
from equiquant.io import inline_functions
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe
from equiquant.target import names_matched

__all__ = ["Made", "follow_names", "made_by"]

PASSING = frozenset({"Identity", "Dropout"})
Made = Mapping[str, Sequence[str]]
"""Names of the values that each node makes, by its name."""


def made_by(model: ir.Model, recipe: Recipe) -> Made:
    """Return what each node of a model makes, in subgraphs too; those that only pass a value on make none.

    Nothing where the recipe names no nodes: following calls takes as long as making them part of the graph.
    """
    if not (recipe.nodes_to_quantize or recipe.nodes_to_exclude or recipe.subgraphs_to_exclude):
        return {}
    calls: dict[str, list[str]] = {}
    with contextlib.suppress(ModelError):  # calls that stay what they are
        calls = inline_functions(model.clone()) if model.functions else {}
    return {
        node.name or "": [] if node.op_type in PASSING else [value.name or "" for value in node.outputs]
        for node in model.graph.all_nodes()
    } | calls


def follow_names(state: RunState, before: Made, model: ir.Model) -> None:
    """Name in the recipe the nodes that have taken the place of those named, where those are no longer there.

    Args:
        state: The run; its recipe changes, and it gets the decisions.
        before: What the nodes made before the folds.
        model: The model after them.

    Raises:
        OptionError: All of `nodes_to_quantize` have gone and nothing has taken their place; an expression is not valid.
    """
    now = made_by(model, state.recipe)
    makers = {value: node for node, values in now.items() for value in values}
    gone = {
        name: list(dict.fromkeys(makers[value] for value in values if value in makers))
        for name, values in before.items()
        if name not in now
    }

    def followed(patterns: Sequence[str], option: str) -> tuple[str, ...]:
        found: list[str] = []
        for pattern in patterns:
            absent = () if names_matched(pattern, now, option) else names_matched(pattern, gone, option)
            for name in absent:
                heirs = " and ".join(f"'{heir}'" for heir in gone[name])
                reason = f"{option} names it; {f'it is part of {heirs} now' if heirs else 'nothing computes it now'}"
                state.decisions.append(Decision("fold", "named", name, bool(heirs), reason))
                found += gone[name]
            found += () if absent else (pattern,)
        return tuple(dict.fromkeys(found))

    recipe = state.recipe
    wanted = followed(recipe.nodes_to_quantize, "nodes_to_quantize")
    if recipe.nodes_to_quantize and not wanted:
        raise OptionError("nodes_to_quantize: nothing computes any of these nodes once the graph is folded.")
    between = "subgraphs_to_exclude"
    state.recipe = recipe.replace(
        nodes_to_quantize=wanted,
        nodes_to_exclude=followed(recipe.nodes_to_exclude, "nodes_to_exclude"),
        subgraphs_to_exclude=tuple(
            (followed(start, between) or start, followed(end, between) or end)
            for start, end in recipe.subgraphs_to_exclude
        ),
    )
