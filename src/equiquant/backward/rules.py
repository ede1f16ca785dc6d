"""One adjoint rule an op. What is read by an op that is not in `RULES` counts as an output of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from equiquant.backward import (
    arithmetic,
    elementwise,
    linear,
    normalization,
    pooling,
    resampling,
    shaping,
)
from equiquant.backward.tape import Tape

__all__ = ["RULES", "rule_of"]

Rule = Callable[[Tape, ir.Node, Sequence[ir.Value | None]], None]

DIFFERENCES = (
    *("HardSigmoid", "HardSwish", "Gelu", "Elu", "Selu", "Celu", "Softsign", "Mish", "Swish", "ThresholdedRelu"),
    *("Shrink", "Tan", "Atan", "Sinh", "Cosh", "Asinh"),
)
REDUCTIONS = (
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"),
)
NOTHING = (
    *("Shape", "Size", "ConstantOfShape", "EyeLike", "Constant", "NonZero"),
    *("Floor", "Ceil", "Round", "Sign", "IsNaN", "IsInf"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor"),
)

RULES: dict[str, Rule] = {
    "Conv": linear.conv,
    "ConvTranspose": linear.conv_transpose,
    "Gemm": linear.gemm,
    "MatMul": linear.matmul,
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    **dict.fromkeys(DIFFERENCES, elementwise.difference),
    "LeakyRelu": elementwise.leaky_relu,
    "PRelu": elementwise.prelu,
    "Clip": elementwise.clip,
    "Pow": elementwise.power,
    **dict.fromkeys(("Identity", "Dropout", "Cast", "CastLike"), elementwise.cast),
    **dict.fromkeys(NOTHING, elementwise.nothing),
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), arithmetic.total),
    "Mul": arithmetic.mul,
    "Div": arithmetic.div,
    **dict.fromkeys(("Max", "Min"), arithmetic.extreme),
    "Where": arithmetic.where,
    "BatchNormalization": normalization.batch_normalization,
    "LayerNormalization": normalization.layer_normalization,
    "InstanceNormalization": normalization.instance_normalization,
    "Softmax": normalization.softmax,
    "LogSoftmax": normalization.log_softmax,
    "AveragePool": pooling.average_pool,
    "MaxPool": pooling.max_pool,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), pooling.global_pool),
    **dict.fromkeys(REDUCTIONS, pooling.reduction),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), shaping.reshape),
    "Transpose": shaping.transpose,
    "Concat": shaping.concat,
    "Split": shaping.split,
    "Slice": shaping.slice_,
    **dict.fromkeys(("Gather", "GatherElements", "GatherND"), shaping.gather),
    "Pad": shaping.pad,
    "Expand": shaping.expand,
    "Tile": shaping.tile,
    "DepthToSpace": shaping.depth_to_space,
    "SpaceToDepth": shaping.space_to_depth,
    "Trilu": shaping.trilu,
    "Resize": resampling.resize,
}


def rule_of(node: ir.Node) -> Rule | None:
    """Return the rule of a node, None if it has none."""
    return RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
