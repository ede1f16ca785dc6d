"""The graph in its canonical form, at an opset the target can use."""

from __future__ import annotations

import onnx_ir as ir

from equiquant import canonical, target
from equiquant.decisions import Decision
from equiquant.graph.query import opset
from equiquant.io import upgrade_opset
from equiquant.recipe import Recipe

__all__ = ["canonical_form"]


def canonical_form(model: ir.Model, recipe: Recipe, *, optimize: bool) -> list[Decision]:
    """Raise the opset to what the target needs, then fold; the model is changed in place."""
    if opset(model) < (needed := target.required_opset(recipe)):
        upgrade_opset(model, needed)
    return canonical.canonicalize(model, optimize=optimize)
