"""Nodes and initializers nothing depends on, removed at the end: what the folds left behind, and what was dead."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import STAGE
from equiquant.decisions import Decision
from equiquant.graph import edit
from equiquant.graph.query import label

__all__ = ["remove_dead"]

RULE = "remove_dead"


def remove_dead(model: ir.Model) -> list[Decision]:
    """Remove dead nodes and initializers; the decisions name the nodes."""
    before = list(model.graph)
    edit.remove_dead(model)
    reason = "nothing depends on its result"
    return [Decision(STAGE, RULE, label(node), True, reason) for node in before if node.graph is None]
