"""The quantization plan: every choice made, frozen, before the graph is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from equiquant.numerics.affine import QuantParams

__all__ = ["QuantPlan"]


@dataclass(frozen=True, eq=False)
class QuantPlan:
    """Parameters of every quantized tensor.

    Attributes:
        activations: Value name to parameters; the value gets one QuantizeLinear/DequantizeLinear pair.
        constants: (node name, input index) to parameters, for weights and biases stored as integers.
        nodes: Names of the nodes that read dequantized inputs, in graph order.
        kept_float: Node name to the reason it stays float.
    """

    activations: Mapping[str, QuantParams]
    constants: Mapping[tuple[str, int], QuantParams]
    nodes: tuple[str, ...]
    kept_float: Mapping[str, str]
