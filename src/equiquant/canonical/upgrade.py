"""Operator set and IR version, raised to what a QDQ model needs; done whether or not the graph is optimized.

QuantizeLinear and DequantizeLinear take the form we write from opset 13 on. Before IR version 4 every initializer had
to be listed as a graph input and could not be overridden; from 4 on being listed means it can. So when the IR version
rises, those initializers leave the inputs: they stay the constants they were.
Source: ONNX `docs/Versioning.md` and `docs/IR.md`; the same reading as onnxruntime's.
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


def upgrade(model: ir.Model) -> list[Decision]:
    """Convert a model below opset 13 to 17, and raise the IR version where it is too low.

    Raises:
        ModelError: The conversion failed.
    """
    decisions = []
    version, source = model.ir_version, opset(model)
    if version < 4:
        for value in [v for v in model.graph.inputs if v.is_initializer()]:
            model.graph.inputs.remove(value)
            decisions.append(
                Decision(STAGE, RULE, value.name or "", True, f"no longer an input: a constant in IR version {version}")
            )
    if source < LEAST_OPSET:
        upgrade_opset(model, TARGET_OPSET)
        decisions.append(Decision(STAGE, RULE, model.graph.name or "graph", True, f"opset {source} → {opset(model)}"))
    else:
        raise_ir_version(model)
    if model.ir_version != version:
        reason = f"IR version {version} → {model.ir_version}"
        decisions.append(Decision(STAGE, RULE, model.graph.name or "graph", True, reason))
    return decisions
