"""Which values tell a float model from its quantized twin, and what of the twin each is compared with.

An output in a number that depends on the numbers (what a non-maximum suppression leaves) is not the same in both
models: what it was decided by takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from equiquant.graph.decisions import decided_by
from equiquant.graph.varying import varying

__all__ = ["compared_values", "twin", "twins_of"]


def compared_values(float_model: ir.Model) -> list[str]:
    """Return the names of the outputs to compare, in graph order; no inputs, which both models are given."""
    unlike, given = varying(float_model), {v.name for v in float_model.graph.inputs}
    decided = decided_by(float_model) if unlike else {}
    found: dict[str, None] = {}
    for output in float_model.graph.outputs:
        name = str(output.name)
        found |= dict.fromkeys(n for n in decided[name] if n not in given) if output in unlike else {name: None}
    return list(found)


def twins_of(names: Iterable[str], quantized_model: ir.Model) -> dict[str, str]:
    """Return the name in the quantized model of what to compare each value with; without those that have none."""
    twins = {str(v.name): twin(v) for node in quantized_model.graph for v in node.outputs}
    twins |= {str(v.name): str(v.name) for v in quantized_model.graph.outputs}
    return {name: twins[name] for name in names if name in twins}


def twin(value: ir.Value) -> str:
    """Return the name of the dequantized value if a QuantizeLinear/DequantizeLinear pair reads this one."""
    for use in value.uses():
        if use.node.op_type != "QuantizeLinear" or use.idx != 0:
            continue
        for reader in use.node.outputs[0].consumers():
            if reader.op_type == "DequantizeLinear":
                return str(reader.outputs[0].name)
    return str(value.name)
