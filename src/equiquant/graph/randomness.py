"""Nodes that draw random numbers: two runs of such a model differ, so nothing can be proven or measured on it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from equiquant.errors import ModelError
from equiquant.graph.query import bodies, constant, label
from equiquant.graph.varying import SIZES

__all__ = ["RANDOM", "refuse_random"]

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def refuse_random(model: ir.Model) -> None:
    """Refuse a model that draws random numbers, with a seed or without: each run goes on where the last one stopped.

    What no output hears of is let through, and a Dropout whose mode is an input: that is the user's to set.

    Raises:
        ModelError: It names the node.
    """
    for node in _heard(model):
        where, advice = f"The node '{label(node)}' ({node.op_type})", "nothing can be proven or measured."
        if _trains(node):
            raise ModelError(f"{where} is in training mode: runs differ, so {advice} Export the model for inference.")
        if node.domain == "" and node.op_type in RANDOM:
            raise ModelError(
                f"{where} draws random numbers: runs differ, so {advice} Make its output an input of the model."
            )


def _heard(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes whose numbers may reach an output, in bodies and in functions too; sizes tell of no numbers."""
    seen = set()
    values = list(model.graph.outputs)
    while values:
        node = values.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if node.domain == "" and node.op_type in SIZES:
            continue
        function = model.functions.get(node.op_identifier())
        within = [*bodies(node), *([] if function is None else [function.graph])]
        values += [v for v in (*node.inputs, *(v for graph in within for v in graph.outputs)) if v is not None]


def _trains(node: ir.Node) -> bool:
    """True for a Dropout that is always in training mode and drops something."""
    if node.domain != "" or node.op_type != "Dropout" or len(node.inputs) < 3:
        return False
    ratio, flag = constant(node.inputs[1]), constant(node.inputs[2])
    drops = node.inputs[1] is None or ratio is None or bool(ratio.any())
    return drops and flag is not None and bool(flag.any())
