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

from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

from equiquant.options.kinds import Option, PowerOfTwoMethod, applied, automatic, planned
from equiquant.options.limits import NPU_LIMITS
from equiquant.options.own import OWN
from equiquant.options.planned import PLANNED
from equiquant.options.rewrites import NPU_OPTIONS

__all__ = ["ARGUMENTS", "EXTRA_OPTIONS", "Option", "PowerOfTwoMethod"]

_ARGUMENTS = [
    applied(
        "calibrate_method",
        (CalibrationMethod, PowerOfTwoMethod),
        CalibrationMethod.MinMax,
        "calibration scale_kind",
        "CalibrationMethod.MinMax, Percentile and Entropy give float scales (Distribution is a symmetric MinMax, as in"
        " onnxruntime for integers); PowerOfTwoMethod.MinMSE and NonOverflow give powers of two.",
    ),
    applied("quant_format", (QuantFormat,), QuantFormat.QDQ, "", "QDQ, the only format written."),
    applied(
        "activation_type",
        (QuantType,),
        QuantType.QInt8,
        "activation_type",
        "QUInt8, QInt8, QUInt16 or QInt16; 8 bits when `enable_npu_cnn`.",
    ),
    applied(
        "weight_type", (QuantType,), QuantType.QInt8, "weight_type", "QInt8 or QUInt8; QInt8 when `enable_npu_cnn`."
    ),
    applied(
        "enable_npu_cnn",
        "bool",
        False,
        "npu",
        "Quantize for the CNN NPU: power-of-two scales, per-tensor int8 weights, int8 bias.",
    ),
    applied("include_cle", "bool", True, "cle", "Equalize channels across layers first."),
    applied(
        "per_channel", "bool", False, "per_channel", "One weight scale per output channel; not with `enable_npu_cnn`."
    ),
    applied(
        "optimize_model",
        "bool",
        True,
        "optimize",
        "Fold BatchNormalization, constants and identities first; False leaves the graph as it is.",
    ),
    applied("op_types_to_quantize", "names", (), "op_types_to_quantize", "Only these operator types."),
    applied(
        "nodes_to_quantize",
        "names",
        (),
        "nodes_to_quantize",
        "Only these nodes: names, globs, or regular expressions starting with `^` or `re:`.",
    ),
    applied(
        "nodes_to_exclude",
        "names",
        (),
        "nodes_to_exclude",
        "Keep these nodes float: names, globs, or regular expressions starting with `^` or `re:`.",
    ),
    applied(
        "subgraphs_to_exclude",
        "subgraphs",
        (),
        "subgraphs_to_exclude",
        "Pairs ([start nodes], [end nodes]): what lies between, ends included, stays float.",
    ),
    *automatic(
        "The weights go to a file beside the model by themselves once they exceed 2 GB.",
        "bool",
        use_external_data_format=False,
    ),
    *automatic("The command line shows the progress and the summary.", "bool", print_summary=True, debug_mode=False),
    *automatic("Python's `warnings` decides what is shown.", "bool", ignore_warnings=True),
    *automatic("Python's `logging` decides what is shown.", "any", log_severity_level=None),
    *planned(
        "Quantize only between these nodes; `subgraphs_to_exclude` and `nodes_to_exclude` say what stays float.",
        ((),),
        "input_nodes output_nodes",
    ),
    *planned("Operator types besides the supported ones.", ((),), "extra_op_types_to_quantize"),
    *planned("7-bit weights.", (False,), "reduce_range"),
    *automatic(
        "Calibration runs on the CPU, whatever is listed.", "names", execution_providers=("CPUExecutionProvider",)
    ),
    *planned("Scales computed at run time.", (False,), "use_dynamic_quant"),
    *planned("Transformer NPU target.", (False,), "enable_npu_transformer"),
    *planned("Change of the model's type.", (False,), "convert_fp16_to_fp32"),
    *planned("Change of the model's layout.", (False,), "convert_nchw_to_nhwc"),
    *planned("SmoothQuant.", (False,), "include_sq"),
    *planned("Rotation of hidden states.", (False,), "include_rotation"),
    *planned(
        "Mixed precision; `TargetSQNR`, `KeepFloat` and `Int16Layers` choose layers here.",
        (False,),
        "include_auto_mp specific_tensor_precision",
    ),
    *planned(
        "AdaRound or AdaQuant finetuning; `BiasCorrection` and `WeightRounding`, on by default, need no training.",
        (False,),
        "include_fast_ft",
    ),
    *planned("Encrypted models.", (False,), "crypto_mode"),
]

_EXTRA = [
    applied(
        "ReplaceClip6Relu",
        "bool",
        False,
        "replace_clip6_relu",
        "Replace Clip(0, 6) by Relu before equalization; it changes the function, and the report says by how much.",
    ),
    applied(
        "CLESteps",
        "int",
        1,
        "cle_steps",
        "Sweeps of cross-layer equalization; -1 sweeps until the scales no longer change.",
    ),
    applied(
        "CLEScaleAppendBias",
        "bool",
        True,
        "cle_append_bias",
        "The bias counts in the range of a layer's output channel.",
    ),
    applied(
        "CLEMethod",
        "str",
        "auto",
        "cle_method",
        "Our own: 'pairwise' is the documented solver with CLESteps sweeps; 'global' finds the least noise of the whole"
        " network; 'auto' tries both and keeps what measures best.",
        ("auto", "pairwise", "global"),
    ),
    applied(
        "CLEAccept",
        "str",
        "measured",
        "cle_accept",
        "Our own: 'measured' drops equalization that measures over 0.7 dB below the best, 'always' keeps it.",
        ("measured", "always"),
    ),
    applied(
        "AvoidOverflow",
        "bool",
        True,
        "avoid_overflow",
        "Our own: where onnxruntime's integer kernels on this machine overflow with int8 weights (x86 without VNNI),"
        " the same numbers are stored as uint8 with zero point 128. False keeps int8 and warns.",
    ),
    applied(
        "ClipMode",
        "str",
        "exact",
        "clip_mode",
        "Our own: ReLU6. 'exact' moves only channels that never reach 6; 'soft' the others too, where that measures"
        " better; 'per_channel', or 'per_channel:N' for the first N, gives every channel its own bound; 'relu' is"
        " ReplaceClip6Relu.",
    ),
    applied(
        "BiasCorrection",
        "bool",
        True,
        "bias_correction",
        "Set each layer's bias so that its mean output is that of the float network, where that measures better; not by"
        " a single sample.",
    ),
    applied(
        "WeightRounding",
        "str",
        "auto",
        "weight_rounding",
        "Our own. 'nearest', or 'optimal': weights rounded for the inputs they meet, where that measures better;"
        " 'auto' is 'optimal' unless the network is so large that it would take long.",
        ("auto", "nearest", "optimal"),
    ),
    applied(
        "ActivationSymmetric",
        "bool",
        None,
        "activation_symmetric",
        "Zero point at the center of the type. Default False; always True with `enable_npu_cnn`.",
    ),
    applied(
        "WeightSymmetric",
        "bool",
        None,
        "weight_symmetric",
        "Zero point at the center of the type for weights. Default True for QInt8, False for QUInt8.",
    ),
    applied(
        "UseUnsignedReLU",
        "bool",
        False,
        "unsigned_relu",
        "The output of Relu, and of Clip from 0, is asymmetric, with the whole range of its type, even when activations"
        " are symmetric.",
    ),
    applied(
        "Int32Bias",
        "bool",
        None,
        "bias_type",
        "int32 bias at scale s_x*s_w; False: the weight's type. Default False with `enable_npu_cnn`, else True. With"
        " `enable_npu_cnn` the int32 bias has the int8 values of the documented form, which then runs on CPU integer"
        " kernels.",
    ),
    *NPU_LIMITS,
    applied(
        "Int16Bias", "bool", False, "bias_type", "Bias as int16, which goes before Int32Bias; power-of-two scales only."
    ),
    applied(
        "CalibDataSize",
        "int",
        None,
        "calibration_samples",
        "Use this many calibration samples, to the end of the last batch. Default all.",
    ),
    applied(
        "CalibTensorRangeSymmetric",
        "bool",
        None,
        "symmetric_ranges",
        "Make every float range of an activation symmetric about 0. Default False; the ranges of a PowerOfTwoMethod"
        " always are.",
    ),
    applied(
        "CalibMovingAverage",
        "bool",
        False,
        "moving_average",
        "Minimum and maximum by a moving average over batches; CalibrationMethod.MinMax only.",
    ),
    applied(
        "CalibMovingAverageConstant",
        "float",
        0.01,
        "moving_average_constant",
        "Weight of the newest batch in the moving average.",
    ),
    applied(
        "Percentile",
        "float",
        99.999,
        "percentile",
        "Percent of the values that CalibrationMethod.Percentile keeps; half of the rest is cut at either end.",
    ),
    applied(
        "NumBins",
        "int",
        None,
        "histogram_bins",
        "Bins of the histogram for Percentile and Entropy. Default: 16384 fixed bins for Percentile, 128 for Entropy,"
        " as in onnxruntime: no more than there are levels, so that nothing is cut. More than 16384"
        " count as so many for Entropy.",
    ),
    applied(
        "MinMSEModePof2Scale",
        "str",
        "All",
        "minmse_mode",
        "'All' minimizes the error of PowerOfTwoMethod.MinMSE over all samples; 'MostCommon' takes the scale that is"
        " best for most samples alone.",
        ("All", "MostCommon"),
    ),
    applied("MinMSEMode", "str", "All", "minmse_mode", "Older name of MinMSEModePof2Scale.", ("All", "MostCommon")),
    applied(
        "NonOverflowRounding",
        "str",
        "up",
        "nonoverflow_rounding",
        "Our own, for activations: 'up' never overflows; 'nearest' rounds log2 of the scale as the documented tool"
        " does, and may clip up to 29 % of the range.",
        ("up", "nearest"),
    ),
    *NPU_OPTIONS,
    *OWN,
    *automatic(
        "Without calibration data, synthetic inputs are used in any case, with a warning.", "bool", UseRandomData=False
    ),
    *automatic("No external simplifier is used; `optimize_model` decides.", "bool", SimplifyModel=True),
    *automatic("Calibration always runs in constant memory.", "bool", CalibOptimizeMem=True),
    *automatic("Where temporary files go is up to the environment.", "any", TmpDir=None),
    *automatic("Only standard ONNX operators are written.", "bool", UseQDQVitisCustomOps=True),
    *automatic("As the arguments of the same meaning.", "bool", PrintSummary=True, IgnoreWarnings=True),
    *automatic(
        "What only moves data always shares the scale of what it moves.",
        "bool",
        AlignTranspose=False,
        AlignReshape=False,
    ),
    *automatic("The weight scale always grows until an int32 bias fits.", "bool", AdjustWeightScaleForInt32Bias=False),
    *automatic(
        "With `enable_npu_cnn` what moves data is always quantized, else when its readers are.",
        "bool",
        ForceQuantizeNoInputCheck=False,
    ),
    *PLANNED,
]

ARGUMENTS: Mapping[str, Option] = {o.name: o for o in _ARGUMENTS}
EXTRA_OPTIONS: Mapping[str, Option] = {o.name: o for o in _EXTRA}
