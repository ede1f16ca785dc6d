"""What each target can run, as data: one row a target, one row a limit.

The generic rows are onnxruntime's CPU provider and every backend that reads QDQ the same way: an op is quantized where
an integer kernel exists and stays float elsewhere. `npu_cnn` is the documented CNN NPU (`enable_npu_cnn`): every op of
the op table is quantized, symmetric, with power-of-two scales, and every result is stored in 8 bits, graph outputs
included. It rescales by shifts, and its shifters have limits. With the position p = −log2(scale) of each tensor:

    shift cut    p_w + p_in − p_out   bits cut off an accumulator to make the output
    shift bias   p_w + p_in − p_b     bits a bias is shifted to the left to meet the accumulator, which has 24 bits
    shift read   p_a − p_b            between the operands of an Add
    shift write  min p_in − p_out     of an Add; Σ p_in − p_out of a Mul

Source: onnxruntime, "Quantize ONNX models"; AMD Quark documentation, "Power-of-two and XINT8 quantization" and "Full
List of Quantization Configuration Features" (the names and defaults); the limits are those AMD's Vitis AI quantizer for
ONNX enforces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from equiquant.graph.query import LINEAR_OPS
from equiquant.recipe import Recipe
from equiquant.target.table.ops import OPS

__all__ = ["HARDWARE", "Hardware", "Shift", "hardware_of"]

Terms = tuple[tuple[str, int], ...]
"""(role, coefficient) pairs. The roles `input`, `weight`, `bias` and `output` are those of a layer, `a` and `b` the
operands of an elementwise op, `least` the operand with the smallest position."""


@dataclass(frozen=True)
class Shift:
    """A limit on a sum of positions: low ≤ Σ coefficient·p ≤ high.

    Attributes:
        option: The documented option that turns it off.
        name: What the sum is called.
        ops: Op types it holds for.
        terms: The sum.
        low: Least value, None for none.
        high: Largest value, None for none.
        softer: (terms, offset): the least value is min(low, Σ terms + offset) instead.
        hard_before: Op types that `softer` does not hold before.
        gate_only: Only where one operand is also what a HardSigmoid reads: x·HardSigmoid(x).
    """

    option: str
    name: str
    ops: frozenset[str]
    terms: Terms
    low: int | None = None
    high: int | None = None
    softer: tuple[Terms, int] | None = None
    hard_before: frozenset[str] = frozenset()
    gate_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a target can run.

    Attributes:
        name: The target.
        activations: Storage types of activations.
        weights: Storage types of weights.
        biases: Storage types of biases.
        symmetric: Zero points are the types' centers (0 for what is never negative, on request).
        power_of_two: All scales are powers of two.
        per_channel: Weights may have one scale an output channel.
        quantized: Op types quantized by default.
        lazy: Op types among them that stay float when nobody reads the result as integers.
        float_output: Op types with an integer kernel that can return float when nobody reads the result as integers.
        fused: Activations computed before the producer's result is rounded: no QuantizeLinear in between.
        aligned: Op types whose inputs and output share one scale, with the option that says so.
        shifts: The limits of its shifters.
    """

    name: str
    activations: frozenset[str]
    weights: frozenset[str]
    biases: frozenset[str]
    symmetric: bool
    power_of_two: bool
    per_channel: bool
    quantized: frozenset[str]
    lazy: frozenset[str]
    float_output: frozenset[str]
    fused: frozenset[str]
    aligned: Mapping[str, str]
    shifts: tuple[Shift, ...] = ()


_CUT: Terms = (("weight", 1), ("input", 1), ("output", -1))
_SHIFTS = (
    Shift("AdjustShiftCut", "shift cut", LINEAR_OPS, _CUT, 0, 16),
    Shift(
        "AdjustShiftBias",
        "shift bias",
        LINEAR_OPS,
        (("weight", 1), ("input", 1), ("bias", -1)),
        0,
        15,
        softer=(_CUT, 8 - 24),  # min(0, −(24 − (8 + cut))): 8 bits of a bias in the 24 of an accumulator
        hard_before=frozenset({"LeakyRelu"}),
    ),
    Shift("AdjustShiftRead", "shift read", frozenset({"Add", "Sub"}), (("a", 1), ("b", -1)), -7, 7),
    Shift("AdjustShiftWrite", "shift write", frozenset({"Add"}), (("least", 1), ("output", -1)), -7, 25),
    Shift("AdjustShiftWrite", "shift write", frozenset({"Mul"}), (("a", 1), ("b", 1), ("output", -1)), 0, 32),
    Shift("AdjustHardSigmoid", "input position", frozenset({"HardSigmoid"}), (("input", 1),), 0, 15),
    Shift("AdjustHardSigmoid", "output position", frozenset({"HardSigmoid"}), (("output", 1),), 7),
    Shift("AdjustHardSigmoid", "shift sigmoid", frozenset({"HardSigmoid"}), (("input", 1), ("output", -1)), -14),
    Shift(
        "AdjustShiftSwish",
        "shift swish",
        frozenset({"Mul"}),
        (("a", 1), ("b", 1), ("output", -1)),
        0,
        15,
        gate_only=True,
    ),
)

_CPU = Hardware(
    name="cpu",
    activations=frozenset({"uint8", "int8"}),
    weights=frozenset({"int8", "uint8", "int4"}),  # int4 where weights alone are quantized
    biases=frozenset({"int32", "int16", "int8"}),
    symmetric=False,
    power_of_two=False,
    per_channel=False,
    quantized=frozenset(op for op, row in OPS.items() if row.cpu),
    lazy=frozenset(op for op, row in OPS.items() if row.lazy),
    float_output=frozenset({"Gemm", "MatMul"}),
    fused=frozenset({"Relu", "Clip", "LeakyRelu"}),
    aligned={},
)
_NPU = Hardware(
    name="npu_cnn",
    activations=frozenset({"uint8", "int8"}),
    weights=frozenset({"int8"}),
    biases=frozenset({"int8", "int16", "int32"}),
    symmetric=True,
    power_of_two=True,
    per_channel=False,
    quantized=frozenset(op for op, row in OPS.items() if row.npu),
    lazy=frozenset(),
    float_output=frozenset(),
    fused=frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"}),
    aligned={
        "Concat": "AlignConcat",
        "AveragePool": "AlignPool",
        "GlobalAveragePool": "AlignPool",
        "MaxPool": "AlignPool",
        "GlobalMaxPool": "AlignPool",
        "Pad": "AlignPad",
        "Slice": "AlignSlice",
    },
    shifts=_SHIFTS,
)

HARDWARE: Mapping[str, Hardware] = {
    row.name: row
    for row in (
        _NPU,
        _CPU,
        dataclasses.replace(_CPU, name="cpu_per_channel", per_channel=True),
        dataclasses.replace(_CPU, name="a16w8", activations=frozenset({"uint16", "int16"}), per_channel=True),
    )
}


def hardware_of(recipe: Recipe) -> Hardware:
    """Return the row a recipe quantizes for."""
    if recipe.npu:
        return HARDWARE["npu_cnn"]
    if recipe.activation_type in HARDWARE["a16w8"].activations:
        return HARDWARE["a16w8"]
    return HARDWARE["cpu_per_channel" if recipe.per_channel else "cpu"]
