"""Nodes that draw random numbers: two runs of such a model differ, so nothing can be proven or measured on it."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.errors import ModelError
from equiquant.graph.query import constant, is_public, label

__all__ = ["RANDOM", "refuse_random"]

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def refuse_random(model: ir.Model) -> None:
    """Refuse a model that draws random numbers, with a seed or without: each run goes on where the last one stopped.

    Raises:
        ModelError: It names the node.
    """
    for node in model.graph.all_nodes():
        if not any(o.uses() or is_public(o) for o in node.outputs):
            continue
        where, advice = f"The node '{label(node)}' ({node.op_type})", "nothing can be proven or measured."
        if _trains(node):
            raise ModelError(f"{where} is in training mode: runs differ, so {advice} Export the model for inference.")
        if node.domain == "" and node.op_type in RANDOM:
            raise ModelError(
                f"{where} draws random numbers: runs differ, so {advice} Make its output an input of the model."
            )


def _trains(node: ir.Node) -> bool:
    flag = constant(node.inputs[2]) if node.op_type == "Dropout" and len(node.inputs) > 2 else None
    return node.domain == "" and flag is not None and bool(flag.any())
