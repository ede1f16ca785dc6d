"""The quantization plan: every choice made, frozen, before the graph is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from equiquant.decisions import Decision
from equiquant.numerics.affine import QuantParams
from equiquant.target.choosing.limits import LimitReport

__all__ = ["QuantPlan"]


@dataclass(frozen=True, eq=False)
class QuantPlan:
    """Parameters of every quantized tensor.

    Attributes:
        activations: Value name to parameters; the value gets one QuantizeLinear/DequantizeLinear pair.
        constants: (node name, input index) to parameters, for weights and biases stored as integers.
        nodes: Names of the nodes that read dequantized inputs, in graph order.
        kept_float: Node name to the reason it stays float.
        grids: (node name, input index) to the parameters whose values a constant takes before it is stored with those
            of `constants`: an int8 bias written as int32.
        bias_gains: Node name to the noise gain at the network's output of each channel of its bias, where known.
        integer_clips: Relu, Clip and Min behind a quantized node work on its integers.
        remarks: What the user should know of single nodes.
        limits: What the limits of the target did, None where it has none.
    """

    activations: Mapping[str, QuantParams]
    constants: Mapping[tuple[str, int], QuantParams]
    nodes: tuple[str, ...]
    kept_float: Mapping[str, str]
    grids: Mapping[tuple[str, int], QuantParams] = field(default_factory=dict)
    bias_gains: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    integer_clips: bool = False
    remarks: tuple[Decision, ...] = ()
    limits: LimitReport | None = None
