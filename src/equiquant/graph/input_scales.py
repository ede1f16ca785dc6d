"""The scales of a graph input: those of its channels are what the caller sends, and no factor can go into who sends it.

Where features differ in scale, a network divides each by its own (a standardization). Taken into the weights after it,
the input would be rounded with the step of its largest feature, and the weights would differ as much as the factors do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import constant

__all__ = ["evens_out", "is_from_input"]

ALIKE = 2.0
"""Largest over smallest factor that costs at most one bit; ImageNet's 0.229, 0.224 and 0.225 differ by 1.02."""

ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Min", "Max"})
CARRIERS = ARITHMETIC | {"Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
CARRIERS |= {"Transpose", "Unsqueeze", "Abs", "Clip", "LeakyRelu", "Neg", "Relu"}
"""Op types that hand on what they read, moved, cut off, or by constants shifted or scaled."""


def evens_out(scale: npt.NDArray[Any]) -> bool:
    """True if the factors of the channels differ so much that they make unlike channels alike."""
    sizes = np.abs(scale)
    return bool(sizes.size and sizes.max() > ALIKE * sizes.min())


def is_from_input(value: ir.Value) -> bool:
    """True for graph inputs, moved, cut off, shifted or scaled by constants, or concatenated."""
    reached = [value]
    for found in reached:
        node = found.producer()
        if node is None:
            if not found.is_graph_input():
                return False
            continue
        if node.domain != "" or node.op_type not in CARRIERS:
            return False
        several = node.op_type in ARITHMETIC or node.op_type == "Concat"
        data = [v for v in node.inputs[: None if several else 1] if v is not None and constant(v) is None]
        if not data or (node.op_type in ARITHMETIC and len(data) > 1):
            return False
        if node.op_type == "Div" and data[0] is not node.inputs[0]:
            return False
        reached += [v for v in data if v not in reached]
    return True
