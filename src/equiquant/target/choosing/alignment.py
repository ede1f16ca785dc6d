"""Where tensors of different ranges have to share one scale: Concat, pools and the like, on targets that align them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from equiquant.target.table.ops import activation_inputs, data_outputs, moves_data, row_of

__all__ = ["alignments"]


def alignments(
    model: ir.Model, nodes: Sequence[str], aligned: Mapping[str, str], alone: Mapping[str, int]
) -> tuple[Counter[str], Counter[str]]:
    """Return, by option, at how many nodes tensors share one scale, and at how many they would rather not.

    Args:
        model: The model; only read.
        nodes: Names of the quantized nodes.
        aligned: Op type to the option that aligns it.
        alone: Position each tensor would have by itself, by name; those that take another's values are absent.
    """
    checked: Counter[str] = Counter()
    differing: Counter[str] = Counter()
    wanted = frozenset(nodes)
    for node in model.graph:
        row = row_of(node)
        option = aligned.get(node.op_type)
        if row is None or option is None or node.name not in wanted:
            continue
        values = [value for _, value in activation_inputs(node, row)]
        values += [] if moves_data(node) else data_outputs(node)
        positions = {alone[value.name or ""] for value in values if (value.name or "") in alone}
        checked[option] += 1
        differing[option] += len(positions) > 1
    return checked, +differing
