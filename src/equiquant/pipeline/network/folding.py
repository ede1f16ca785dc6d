"""The graph in its canonical form, at an opset the target can use, and in the operators of the NPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from equiquant import canonical, hardware, target
from equiquant.canonical.rule import Rule
from equiquant.decisions import Decision
from equiquant.recipe import Recipe

__all__ = ["canonical_form", "hardware_form", "rewritten"]

ON_CPU = tuple(kind for kind in canonical.WHOLES if kind != "PRelu")
"""A PRelu runs in float there, slower than what it is written in."""


def canonical_form(model: ir.Model, recipe: Recipe, *, optimize: bool, quantize: bool = True) -> list[Decision]:
    """Raise the opset to what the target needs, then fold; the model is changed in place.

    Args:
        model: The model.
        recipe: Names the target.
        optimize: False leaves the graph as it is.
        quantize: False brings in no kind of operator that the graph has not: another tool may not have it.
    """
    kinds = None if not quantize else canonical.WHOLES if recipe.npu else ON_CPU
    return canonical.canonicalize(model, optimize=optimize, kinds=kinds, needed=target.required_opset(recipe))


def hardware_form(model: ir.Model, recipe: Recipe) -> Recipe:
    """Write a canonical model in the operators of the NPU, in place; nothing happens for other targets.

    Returns:
        The recipe, see `rewritten`.
    """
    for rules in hardware.wanted(recipe):
        recipe, _ = rewritten(model, recipe, rules)
    return recipe


def rewritten(model: ir.Model, recipe: Recipe, rules: Sequence[Rule[Any, Any]]) -> tuple[Recipe, list[Decision]]:
    """Apply some of the rewrites to what will be quantized, in place.

    Returns:
        The recipe, with the new nodes among those to quantize where it names these, and what was decided.
    """
    if not rules:
        return recipe, []
    before = {node.name for node in model.graph}
    done = hardware.rewrite(model, rules, target.left_float(model, recipe))
    if recipe.nodes_to_quantize:
        made = (node.name or "" for node in model.graph if node.name not in before)
        recipe = recipe.replace(nodes_to_quantize=(*recipe.nodes_to_quantize, *made))
    return recipe, done
