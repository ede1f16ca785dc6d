"""Calls of the model's own functions become the nodes of these: what is inside a function is not looked at."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import STAGE
from equiquant.decisions import Decision
from equiquant.errors import ModelError
from equiquant.io import inline_functions

__all__ = ["inline_calls"]

RULE = "inline_calls"


def inline_calls(model: ir.Model) -> list[Decision]:
    """Make the model's own functions part of its graph, in place, unless they are of another operator set."""
    try:
        made = inline_functions(model)
    except ModelError as error:
        return [Decision(STAGE, RULE, model.graph.name or "graph", False, str(error))]
    return [
        Decision(STAGE, RULE, call, True, f"now {len(values)} values of the graph") for call, values in made.items()
    ]
