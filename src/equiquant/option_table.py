"""The documented options as data: one row a name, with its type, default, recipe field and meaning.

The names, defaults and meanings are those AMD documents for Quark ONNX (Quark 0.13, "Full List of Quantization
Configuration Features"), so that an existing script keeps working; `CLEMethod`, `CLEAccept`, `ClipMode` and those
said to be are keys of our own. A row is in one of three states:

- `applied`: it sets a field of `Recipe`.
- `automatic`: any value of its type is accepted; what it asks for always happens here, or changes no number.
- `planned`: its feature is not built yet; the values that ask for nothing are accepted, any other is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

__all__ = ["ARGUMENTS", "EXTRA_OPTIONS", "Option", "PowerOfTwoMethod"]

Kind = str | tuple[type[Enum], ...]


class PowerOfTwoMethod(Enum):
    """Calibration methods that choose power-of-two scales.

    `NonOverflow` takes the smallest power of two that holds the range; `MinMSE` the one with the least squared error.
    """

    NonOverflow = 0
    MinMSE = 1


@dataclass(frozen=True, slots=True)
class Option:
    """One documented option.

    Attributes:
        name: As documented.
        state: What giving it does, see the module.
        kind: What values it takes: `bool`, `int`, `float`, `str`, `names` (a list of strings), `subgraphs`, `any`, or
            enums.
        default: The documented default; None also where it depends on other options, as `doc` says.
        doc: One sentence.
        fields: The `Recipe` fields it sets.
        accepts: For a planned option: the values that ask for nothing. For another: the only values, empty for any of
            its kind.
    """

    name: str
    state: Literal["applied", "automatic", "planned"]
    kind: Kind
    default: object
    doc: str
    fields: tuple[str, ...] = ()
    accepts: tuple[object, ...] = ()

    @property
    def type_name(self) -> str:
        """How the documentation names the type."""
        return self.kind if isinstance(self.kind, str) else " or ".join(k.__name__ for k in self.kind)


def _applied(name: str, kind: Kind, default: object, fields: str, doc: str, accepts: tuple[object, ...] = ()) -> Option:
    return Option(name, "applied", kind, default, doc, tuple(fields.split()), accepts)


def _automatic(doc: str, kind: Kind, **defaults: object) -> list[Option]:
    return [Option(name, "automatic", kind, default, doc) for name, default in defaults.items()]


def _planned(doc: str, accepts: tuple[object, ...], names: str) -> list[Option]:
    return [Option(name, "planned", "any", accepts[0], doc, (), accepts) for name in names.split()]


_ARGUMENTS = [
    _applied(
        "calibrate_method",
        (CalibrationMethod, PowerOfTwoMethod),
        CalibrationMethod.MinMax,
        "calibration scale_kind",
        "CalibrationMethod.MinMax, Percentile and Entropy give float scales (Distribution is a symmetric MinMax, as in"
        " onnxruntime for integers); PowerOfTwoMethod.MinMSE and NonOverflow give powers of two.",
    ),
    _applied("quant_format", (QuantFormat,), QuantFormat.QDQ, "", "QDQ, the only format written."),
    _applied(
        "activation_type",
        (QuantType,),
        QuantType.QInt8,
        "activation_type",
        "QUInt8, QInt8, QUInt16 or QInt16; 8 bits when `enable_npu_cnn`.",
    ),
    _applied(
        "weight_type", (QuantType,), QuantType.QInt8, "weight_type", "QInt8 or QUInt8; QInt8 when `enable_npu_cnn`."
    ),
    _applied(
        "enable_npu_cnn",
        "bool",
        False,
        "npu",
        "Quantize for the CNN NPU: power-of-two scales, per-tensor int8 weights, int8 bias.",
    ),
    _applied("include_cle", "bool", True, "cle", "Equalize channels across layers first."),
    _applied(
        "per_channel", "bool", False, "per_channel", "One weight scale per output channel; not with `enable_npu_cnn`."
    ),
    _applied(
        "optimize_model",
        "bool",
        True,
        "optimize",
        "Fold BatchNormalization, constants and identities first; False leaves the graph as it is.",
    ),
    _applied("op_types_to_quantize", "names", (), "op_types_to_quantize", "Only these operator types."),
    _applied(
        "nodes_to_quantize",
        "names",
        (),
        "nodes_to_quantize",
        "Only these nodes: names, globs, or regular expressions starting with `^` or `re:`.",
    ),
    _applied(
        "nodes_to_exclude",
        "names",
        (),
        "nodes_to_exclude",
        "Keep these nodes float: names, globs, or regular expressions starting with `^` or `re:`.",
    ),
    _applied(
        "subgraphs_to_exclude",
        "subgraphs",
        (),
        "subgraphs_to_exclude",
        "Pairs ([start nodes], [end nodes]): what lies between, ends included, stays float.",
    ),
    *_automatic(
        "The weights go to a file beside the model by themselves once they exceed 2 GB.",
        "bool",
        use_external_data_format=False,
    ),
    *_automatic("The command line shows the progress and the summary.", "bool", print_summary=True, debug_mode=False),
    *_automatic("Python's `warnings` decides what is shown.", "bool", ignore_warnings=True),
    *_automatic("Python's `logging` decides what is shown.", "any", log_severity_level=None),
    *_planned("Quantize only between these nodes.", ((),), "input_nodes output_nodes"),
    *_planned("Operator types besides the supported ones.", ((),), "extra_op_types_to_quantize"),
    *_planned("7-bit weights.", (False,), "reduce_range"),
    *_planned("Where calibration runs.", (("CPUExecutionProvider",),), "execution_providers"),
    *_planned("Scales computed at run time.", (False,), "use_dynamic_quant"),
    *_planned("Transformer NPU target.", (False,), "enable_npu_transformer"),
    *_planned("Change of the model's type.", (False,), "convert_fp16_to_fp32"),
    *_planned("Change of the model's layout.", (False,), "convert_nchw_to_nhwc"),
    *_planned("SmoothQuant.", (False,), "include_sq"),
    *_planned("Rotation of hidden states.", (False,), "include_rotation"),
    *_planned("Mixed precision.", (False,), "include_auto_mp specific_tensor_precision"),
    *_planned("AdaRound or AdaQuant finetuning.", (False,), "include_fast_ft"),
    *_planned("Encrypted models.", (False,), "crypto_mode"),
]

_EXTRA = [
    _applied(
        "ReplaceClip6Relu",
        "bool",
        False,
        "replace_clip6_relu",
        "Replace Clip(0, 6) by Relu before equalization; it changes the function, and the report says by how much.",
    ),
    _applied(
        "CLESteps",
        "int",
        1,
        "cle_steps",
        "Sweeps of cross-layer equalization; -1 sweeps until the scales no longer change.",
    ),
    _applied(
        "CLEScaleAppendBias",
        "bool",
        True,
        "cle_append_bias",
        "The bias counts in the range of a layer's output channel.",
    ),
    _applied(
        "CLEMethod",
        "str",
        "auto",
        "cle_method",
        "Our own. 'pairwise' is the documented solver with CLESteps sweeps; 'global' finds the least noise of the whole"
        " network; 'auto' tries both and keeps what measures best.",
        ("auto", "pairwise", "global"),
    ),
    _applied(
        "CLEAccept",
        "str",
        "measured",
        "cle_accept",
        "Our own. 'measured' keeps equalization only where it measures better than none, 'always' in any case.",
        ("measured", "always"),
    ),
    _applied(
        "ClipMode",
        "str",
        "exact",
        "clip_mode",
        "Our own: ReLU6. 'exact' moves only channels that never reach 6; 'soft' the others too, where that measures"
        " better; 'per_channel', or 'per_channel:N' for the first N, gives every channel its own bound; 'relu' is"
        " ReplaceClip6Relu.",
    ),
    _applied(
        "ActivationSymmetric",
        "bool",
        None,
        "activation_symmetric",
        "Zero point at the center of the type. Default False; always True with `enable_npu_cnn`.",
    ),
    _applied(
        "WeightSymmetric",
        "bool",
        None,
        "weight_symmetric",
        "Zero point at the center of the type for weights. Default True for QInt8, False for QUInt8.",
    ),
    _applied(
        "UseUnsignedReLU",
        "bool",
        False,
        "unsigned_relu",
        "The output of Relu, and of Clip from 0, uses the whole unsigned range even when activations are symmetric.",
    ),
    _applied(
        "Int32Bias",
        "bool",
        None,
        "bias_type",
        "int32 bias at scale s_x*s_w; False: the weight's type. Default False with `enable_npu_cnn`, else True.",
    ),
    _applied(
        "Int16Bias", "bool", False, "bias_type", "Bias as int16, which goes before Int32Bias; power-of-two scales only."
    ),
    _applied(
        "CalibDataSize", "int", None, "calibration_samples", "Use at most this many calibration samples. Default all."
    ),
    _applied(
        "CalibTensorRangeSymmetric",
        "bool",
        None,
        "symmetric_ranges",
        "Make every min-max range symmetric about 0. Default False; the ranges of a PowerOfTwoMethod always are.",
    ),
    _applied(
        "CalibMovingAverage",
        "bool",
        False,
        "moving_average",
        "Minimum and maximum by a moving average over batches; CalibrationMethod.MinMax only.",
    ),
    _applied(
        "CalibMovingAverageConstant",
        "float",
        0.01,
        "moving_average_constant",
        "Weight of the newest batch in the moving average.",
    ),
    _applied(
        "Percentile",
        "float",
        99.999,
        "percentile",
        "Percent of the values that CalibrationMethod.Percentile keeps; half of the rest is cut at either end.",
    ),
    _applied(
        "NumBins",
        "int",
        None,
        "histogram_bins",
        "Bins of the histogram for Percentile and Entropy. Default: 16384 fixed bins for Percentile, 2048 for Entropy"
        " (where onnxruntime's 128 leave nothing to choose).",
    ),
    _applied(
        "MinMSEModePof2Scale",
        "str",
        "All",
        "minmse_mode",
        "'All' minimizes the error of PowerOfTwoMethod.MinMSE over all samples; 'MostCommon' takes the scale that is"
        " best for most samples alone.",
    ),
    _applied("MinMSEMode", "str", "All", "minmse_mode", "Older name of MinMSEModePof2Scale."),
    _applied(
        "NonOverflowRounding",
        "str",
        "up",
        "nonoverflow_rounding",
        "Our own: 'up' never overflows; 'nearest' rounds log2 of the scale as the documented tool does, and may clip up"
        " to 29 % of the range.",
    ),
    _applied(
        "CalibMemoryLimit",
        "int",
        None,
        "calibration_memory",
        "Our own: MiB that the activations of one feed may take; more are collected in several passes. Default a"
        " quarter of the machine's memory.",
    ),
    _applied(
        "CalibExactHistograms",
        "bool",
        False,
        "exact_histograms",
        "Our own: count every element of an activation instead of a sample of large ones.",
    ),
    *_automatic(
        "Without calibration data, synthetic inputs are used in any case, with a warning.", "bool", UseRandomData=False
    ),
    *_automatic("No external simplifier is used; `optimize_model` decides.", "bool", SimplifyModel=True),
    *_automatic("Calibration always runs in constant memory.", "bool", CalibOptimizeMem=True),
    *_automatic("Where temporary files go is up to the environment.", "any", TmpDir=None),
    *_automatic("Only standard ONNX operators are written.", "bool", UseQDQVitisCustomOps=True),
    *_automatic("As the arguments of the same meaning.", "bool", PrintSummary=True, IgnoreWarnings=True),
    *_automatic(
        "What only moves data always shares the scale of what it moves; Concat does with `enable_npu_cnn`.",
        "bool",
        AlignConcat=True,
        AlignPad=True,
        AlignSlice=True,
        AlignTranspose=False,
        AlignReshape=False,
    ),
    *_automatic("The weight scale always grows until an int32 bias fits.", "bool", AdjustWeightScaleForInt32Bias=False),
    *_automatic(
        "With `enable_npu_cnn` what moves data is always quantized, else when its readers are.",
        "bool",
        ForceQuantizeNoInputCheck=False,
    ),
    *_planned(
        "When CLESteps=-1 has converged; the sweeps here have a bound of their own.",
        (2e-07, 1.9e-07),
        "CLETotalLayerDiffThreshold",
    ),
    *_planned("Rows below this range keep their scale.", (0.5,), "CLEWeightThreshold"),
    *_planned("Whether that threshold counts.", (True,), "CLEScaleUseThreshold"),
    *_planned("How ranges are balanced.", ("max",), "CLEBalanceMethod"),
    *_planned("False keeps biases float.", (True,), "QuantizeBias"),
    *_planned("Bias scales aligned in the extended format.", (True,), "AdjustBiasScale"),
    *_planned("Clip from 0 to Relu; ReplaceClip6Relu does it for Clip(0, 6).", (False,), "ConvertClipToRelu"),
    *_planned(
        "Initializers that are graph inputs, when constant, always become constants.", (True,), "RemoveInputInit"
    ),
    *_planned("False keeps BatchNormalization apart; so does `optimize_model=False`.", (True,), "FoldBatchNorm"),
    *_planned(
        "Rewrites for the NPU, not done yet with either value.",
        (True, False),
        "ConvertBNToConv ConvertReduceMeanToGlobalAvgPool SplitLargeKernelPool "
        "ConvertSplitToSlice FuseInstanceNorm FuseL2Norm FuseGelu FuseLayerNorm",
    ),
    *_planned(
        "Imitation of the DPU's operators, not done yet with either value.",
        (True, False),
        "SimulateDPU ConvertLeakyReluToDPUVersion ConvertSigmoidToHardSigmoid "
        "ConvertHardSigmoidToDPUVersion ConvertAvgPoolToDPUVersion ConvertClipToDPUVersion "
        "ConvertReduceMeanToDPUVersion",
    ),
    *_planned("Imitation of the DPU's Softmax.", (False,), "ConvertSoftmaxToDPUVersion"),
    *_planned(
        "Scales adjusted to the NPU's shift limits, not done yet with either value.",
        (True, False),
        "NPULimitationCheck AdjustShiftCut AdjustShiftBias AdjustShiftRead AdjustShiftWrite "
        "AdjustHardSigmoid AdjustShiftSwish",
    ),
    *_planned(
        "Average pools with one scale for input and output, not done yet; max pools always have one.",
        (True, False),
        "AlignPool",
    ),
    *_planned("Rounds of that adjustment.", (5,), "MaxLoopNum"),
    *_planned(
        "Activations fused into the operator before them are always quantized once, after both.",
        (True,),
        "RemoveQDQConvRelu RemoveQDQConvClip RemoveQDQConvLeakyRelu RemoveQDQConvPRelu",
    ),
    *_planned(
        "No quantization between other operators.",
        (False,),
        "RemoveQDQConvGelu RemoveQDQMulAdd RemoveQDQInstanceNorm RemoveFusedQDQ",
    ),
    *_planned("No quantization between these operator types.", (None, ()), "RemoveQDQBetweenOps"),
    *_planned(
        "Other placements of QuantizeLinear and DequantizeLinear.",
        (False,),
        "AddQDQPairToWeight DedicatedQDQPair EnableDualQuantNodePairs",
    ),
    *_planned(
        "Outputs that stay float.", (None, ()), "OpTypesToExcludeOutputQuantization NodesToExcludeOutputQuantization"
    ),
    *_planned("Channel axis by operator type.", ({}, None), "QDQOpTypePerChannelSupportToAxis"),
    *_planned("Other sets of operators.", (False,), "MatMulConstBOnly EnableSubgraph QuantizeAllOpTypes"),
    *_planned("Weights only.", (False,), "WeightsOnly"),
    *_planned("Other calibration of weights.", (None,), "WeightCalibrateMethod MinMSEModeFloatScale"),
    *_planned(
        "Shape and range of random inputs.", (None, {}), "RandomDataReaderInputShape RandomDataReaderInputDataRange"
    ),
    *_planned("Threads of calibration.", (1,), "CalibWorkerNum"),
    *_planned("Histograms drawn to files.", (False,), "SaveTensorHistFig"),
    *_planned("Calibration saved and loaded.", (None,), "SaveAndRestore TensorsRangeFile"),
    *_planned("Scales of the form M/2^N.", (False,), "Int16Scale"),
    *_planned("float16 models.", (False,), "QuantizeFP16"),
    *_planned("float32 scales of float16 models.", (True,), "UseFP32Scale"),
    *_planned("Weight type of elementwise operators.", (False,), "AlignEltwiseQuantType"),
    *_planned("A fixed input shape.", (None, ""), "FixShapes"),
    *_planned("Relu folded into Conv by a clipped range.", (False,), "FoldRelu"),
    *_planned("Change of the operator set version.", (None,), "ConvertOpsetVersion"),
    *_planned("Copies of shared initializers; they are made where needed.", (None, ()), "CopySharedInit"),
    *_planned(
        "Copies of shared biases; they are made where needed.",
        (("Conv", "ConvTranspose", "Gemm"), None),
        "CopyBiasInit",
    ),
    *_planned("Types and scales of single tensors.", (None, {}), "TensorQuantOverrides MixedPrecisionTensor"),
    *_planned("Mixed precision.", (None, {}), "AutoMixprecision"),
    *_planned("AdaRound or AdaQuant finetuning.", (None, {}), "FastFinetune"),
    *_planned("Strength of SmoothQuant.", (0.5,), "SmoothAlpha"),
    *_planned("GPTQ.", (False,), "UseGPTQ"),
    *_planned("Settings of GPTQ.", (None, {}), "GPTQParams"),
    *_planned("4-bit weights of MatMul.", (False,), "UseMatMulNBits"),
    *_planned("Settings of 4-bit weights.", (None, {}), "MatMulNBitsParams"),
    *_planned("bfloat16 formats.", (False,), "BF16WithClip BF16QDQToCast EnableVaimlBF16"),
    *_planned("Block floating point formats.", (None, {}), "BFPAttributes MXAttributes"),
    *_planned("Custom operator libraries.", (None,), "UserCustomOpLibPath"),
]

ARGUMENTS: Mapping[str, Option] = {o.name: o for o in _ARGUMENTS}
EXTRA_OPTIONS: Mapping[str, Option] = {o.name: o for o in _EXTRA}
