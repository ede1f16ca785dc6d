"""One rule an op: how scale classes flow through it. An op that is not in `RULES` pins everything it touches."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from equiquant.equalization.builder import ClassBuilder
from equiquant.equalization.rules import arithmetic, clip, diagonal, linear, movement, passing, reduction, reshaping

__all__ = ["RULES"]

Rule = Callable[[ClassBuilder, ir.Node], None]

RULES: dict[str, Rule] = {
    # linear layers: input and output classes are independent
    "Conv": linear.conv,
    "ConvTranspose": linear.conv_transpose,
    "Gemm": linear.gemm,
    "MatMul": linear.matmul,
    # one channel at a time
    "BatchNormalization": diagonal.batch_normalization,
    "LayerNormalization": diagonal.layer_normalization,
    "InstanceNormalization": diagonal.instance_normalization,
    "Mul": diagonal.mul,
    "Div": diagonal.div,
    # f(s·x) = s·f(x) for s > 0, element by element
    **dict.fromkeys(("Relu", "LeakyRelu", "Abs", "Neg", "Identity"), passing.homogeneous),
    "Cast": passing.cast,
    "PRelu": passing.prelu,
    "Dropout": passing.dropout,
    "Clip": clip.clip,
    # operands and result share their classes
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean", "Max", "Min"), arithmetic.union),
    "Where": arithmetic.where,
    # windows and reductions along other axes
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool"), reduction.pool
    ),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"), reduction.reduce),
    **dict.fromkeys(("Resize", "Upsample"), reduction.resize),
    # indices move
    "Concat": movement.concat,
    "Split": movement.split,
    "Slice": movement.slice_,
    "Gather": movement.gather,
    "Pad": movement.pad,
    "Transpose": reshaping.transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshaping.reshape),
    "DepthToSpace": reshaping.depth_to_space,
    "SpaceToDepth": reshaping.space_to_depth,
    "Expand": reshaping.expand,
    "Tile": reshaping.tile,
    # reading a shape or a type does not look at the numbers
    "Shape": passing.blind,
    "Size": passing.blind,
    "Constant": passing.constant,
}
