"""What the hardware wants, as data: types, scale kind, which activations fuse, which ops share scales.

Two families. The generic one is onnxruntime's CPU provider (and every backend that reads QDQ the same way): an op is
quantized where an integer kernel exists and stays float elsewhere. The NPU one is the documented CNN NPU
(`enable_npu_cnn`): every op of the table is quantized, symmetric, with power-of-two scales, and every result is stored
as 8 bits, graph outputs included.
Source: onnxruntime, "Quantize ONNX models"; AMD Quark documentation, "Power-of-two and XINT8 quantization".
"""

from __future__ import annotations

from dataclasses import dataclass

from equiquant.numerics.affine import INT_TYPES, IntType
from equiquant.recipe import FUSED_ACTIVATIONS, CalibrationMethod, Recipe, ScaleKind
from equiquant.target.ops import OPS

__all__ = ["PER_AXIS_OPSET", "SIXTEEN_BIT_OPSET", "Target", "required_opset", "target_of"]

PER_AXIS_OPSET = 13  # QuantizeLinear and DequantizeLinear take an axis
SIXTEEN_BIT_OPSET = 21  # and 16-bit types


@dataclass(frozen=True)
class Target:
    """What a run quantizes to.

    Attributes:
        activation: Storage type of activations.
        activation_symmetric: Zero point at the type's center.
        weight: Storage type of weights.
        weight_symmetric: Zero point 0 (the center, for uint8) for weights.
        per_channel: One weight scale per output channel.
        bias: Storage type of biases; int32 means scale s_x·s_w.
        scale_kind: Any float32 scale, or powers of two.
        method: How ranges become scales.
        quantized: Op types quantized by default.
        lazy: Op types among them that stay float when nobody reads the result as integers.
        float_output: Op types with an integer kernel that can return float when nobody reads the result as integers.
        fused: Activations computed before the producer's result is rounded: no QuantizeLinear in between.
        factors: The factor the NPU multiplies a mean by belongs to it: no QuantizeLinear in between.
        aligned: Op types whose inputs and output share one scale although the op does not merely move data.
    """

    activation: IntType
    activation_symmetric: bool
    weight: IntType
    weight_symmetric: bool
    per_channel: bool
    bias: IntType
    scale_kind: ScaleKind
    method: CalibrationMethod
    quantized: frozenset[str]
    lazy: frozenset[str]
    float_output: frozenset[str]
    fused: frozenset[str]
    factors: bool
    aligned: frozenset[str]


def target_of(recipe: Recipe) -> Target:
    """Return the target a recipe describes."""
    npu = recipe.npu
    return Target(
        activation=INT_TYPES[recipe.activation_type],
        activation_symmetric=recipe.activation_symmetric,
        weight=INT_TYPES[recipe.weight_type],
        weight_symmetric=recipe.weight_symmetric,
        per_channel=recipe.per_channel,
        bias=INT_TYPES[recipe.bias_type],
        scale_kind=recipe.scale_kind,
        method=recipe.calibration,
        quantized=frozenset(op for op, row in OPS.items() if (row.npu if npu else row.cpu)),
        lazy=frozenset() if npu else frozenset(op for op, row in OPS.items() if row.lazy),
        float_output=frozenset() if npu else frozenset({"Gemm", "MatMul"}),
        fused=frozenset(FUSED_ACTIVATIONS) - {*recipe.separate, *(() if npu else ("PRelu",))},
        factors=npu,
        aligned=frozenset({"Concat"}) if npu else frozenset(),
    )


def required_opset(recipe: Recipe) -> int:
    """Return the least operator set the quantized model needs; convert before the survey, conversion renames values."""
    kinds = (INT_TYPES[recipe.activation_type], INT_TYPES[recipe.weight_type], INT_TYPES[recipe.bias_type])
    return SIXTEEN_BIT_OPSET if any(k.bits == 16 for k in kinds) else PER_AXIS_OPSET
