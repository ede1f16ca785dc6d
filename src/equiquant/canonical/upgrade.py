"""Operator set and IR version, raised to what a QDQ model needs; done whether or not the graph is optimized.

QuantizeLinear and DequantizeLinear take the form we write from opset 13 on, some of their types from a later one.
Source: ONNX `docs/Versioning.md`.
"""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import STAGE
from equiquant.decisions import Decision
from equiquant.graph.query import opset
from equiquant.io import TARGET_OPSET, raise_ir_version, upgrade_opset

__all__ = ["LEAST_OPSET", "upgrade"]

RULE = "upgrade"
LEAST_OPSET = 13


def upgrade(model: ir.Model, needed: int | None = None) -> list[Decision]:
    """Convert a model of too old an opset, and raise the IR version where it is too low.

    Args:
        model: The model; which of its initializers are constants is settled, for the conversion adds some.
        needed: The least opset, 13 or later; None converts what is below 13 to 17.

    Raises:
        ModelError: The conversion failed.
    """
    decisions = []
    version, source = model.ir_version, opset(model)
    if source < (needed or LEAST_OPSET):
        upgrade_opset(model, needed or TARGET_OPSET)
        decisions.append(Decision(STAGE, RULE, model.graph.name or "graph", True, f"opset {source} → {opset(model)}"))
    else:
        raise_ir_version(model)
    if model.ir_version != version:
        reason = f"IR version {version} → {model.ir_version}"
        decisions.append(Decision(STAGE, RULE, model.graph.name or "graph", True, reason))
    return decisions
