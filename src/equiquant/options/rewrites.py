"""The documented options about the operators of the CNN NPU; docs/hardware.md has the formulas."""

from __future__ import annotations

from equiquant.options.kinds import Option, applied
from equiquant.recipe import FUSED_ACTIVATIONS

__all__ = ["NPU_OPTIONS"]


def _rewrites(**options: tuple[str, str]) -> list[Option]:
    """Return options, name=(recipe field, what is done), on by default; they take effect with `enable_npu_cnn`."""
    return [
        applied(name, "bool", True, field, f"With `enable_npu_cnn`: {doc}") for name, (field, doc) in options.items()
    ]


NPU_OPTIONS = [
    *_rewrites(
        ConvertBNToConv=("bn_to_conv", "a BatchNormalization that no layer absorbs becomes a depthwise Conv."),
        ConvertReduceMeanToGlobalAvgPool=(
            "reduce_mean_to_pool",
            "a ReduceMean over height and width becomes a GlobalAveragePool.",
        ),
        SplitLargeKernelPool=("split_large_pool", "a GlobalAveragePool over more than 512 values becomes two pools."),
        ConvertSplitToSlice=("split_to_slice", "a Split becomes Slices."),
        SimulateDPU=("simulate_dpu", "change operators to what the NPU computes, as the Convert…ToDPUVersion say."),
        ConvertLeakyReluToDPUVersion=("dpu_leaky_relu", "the slope of a LeakyRelu becomes n/256."),
        ConvertSigmoidToHardSigmoid=("dpu_sigmoid", "a Sigmoid becomes HardSigmoid(x/6 + 1/2)."),
        ConvertHardSigmoidToDPUVersion=("dpu_hard_sigmoid", "a HardSigmoid is multiplied by 6 · 2731/16384."),
        ConvertAvgPoolToDPUVersion=("dpu_average_pool", "an average pool gets the factor of the NPU's k/2^s."),
        ConvertReduceMeanToDPUVersion=("dpu_reduce_mean", "a ReduceMean gets the factor of the NPU's k/2^s."),
    ),
    applied(
        "ConvertClipToDPUVersion",
        "bool",
        False,
        "dpu_clip",
        "With `enable_npu_cnn` and SimulateDPU: the bounds of a Clip become whole numbers of an int8.",
    ),
    *(
        applied(
            f"RemoveQDQConv{activation}",
            "bool",
            True,
            "separate",
            f"{whose} {activation} is quantized together with the Conv, Gemm or Add before it; False quantizes both.",
        )
        for activation in FUSED_ACTIVATIONS
        for whose in ("With `enable_npu_cnn`: a" if activation == "PRelu" else "A",)
    ),
]
"""Rewrites of operators, and where activations are rounded."""
