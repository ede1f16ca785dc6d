"""Documented keys of extra_options whose feature is not built, or that ask for nothing here; see `table`."""

from __future__ import annotations

from equiquant.options.kinds import automatic, planned

__all__ = ["PLANNED"]

PLANNED = [
    *planned(
        "When CLESteps=-1 has converged; the sweeps here have a bound of their own.",
        (2e-07, 1.9e-07),
        "CLETotalLayerDiffThreshold",
    ),
    *planned("Rows below this range keep their scale.", (0.5,), "CLEWeightThreshold"),
    *planned("Whether that threshold counts.", (True,), "CLEScaleUseThreshold"),
    *planned("How ranges are balanced.", ("max",), "CLEBalanceMethod"),
    *planned("False keeps biases float.", (True,), "QuantizeBias"),
    *planned("Bias scales aligned in the extended format.", (True,), "AdjustBiasScale"),
    *planned("Clip from 0 to Relu; ReplaceClip6Relu does it for Clip(0, 6).", (False,), "ConvertClipToRelu"),
    *planned("Initializers that are graph inputs, when constant, always become constants.", (True,), "RemoveInputInit"),
    *planned("False keeps BatchNormalization apart; so does `optimize_model=False`.", (True,), "FoldBatchNorm"),
    *planned(
        "Fusions of normalizations and Gelu, not done yet with either value.",
        (True, False),
        "FuseInstanceNorm FuseL2Norm FuseGelu FuseLayerNorm",
    ),
    *planned("Imitation of the DPU's Softmax.", (False,), "ConvertSoftmaxToDPUVersion"),
    *planned(
        "No quantization between other operators.",
        (False,),
        "RemoveQDQConvGelu RemoveQDQMulAdd RemoveQDQInstanceNorm RemoveFusedQDQ",
    ),
    *planned("No quantization between these operator types.", (None, ()), "RemoveQDQBetweenOps"),
    *planned(
        "Other placements of QuantizeLinear and DequantizeLinear.",
        (False,),
        "AddQDQPairToWeight DedicatedQDQPair EnableDualQuantNodePairs",
    ),
    *planned(
        "Outputs that stay float.", (None, ()), "OpTypesToExcludeOutputQuantization NodesToExcludeOutputQuantization"
    ),
    *planned("Channel axis by operator type.", ({}, None), "QDQOpTypePerChannelSupportToAxis"),
    *planned("Other sets of operators.", (False,), "MatMulConstBOnly EnableSubgraph QuantizeAllOpTypes"),
    *planned("Weights only; the presets `w8` and `w4` of `equiquant.quantize` store them so.", (False,), "WeightsOnly"),
    *planned("Other calibration of weights.", (None,), "WeightCalibrateMethod MinMSEModeFloatScale"),
    *planned(
        "Shape and range of random inputs.", (None, {}), "RandomDataReaderInputShape RandomDataReaderInputDataRange"
    ),
    *automatic("Calibration has as many threads as help.", "int", CalibWorkerNum=1),
    *planned("Histograms drawn to files.", (False,), "SaveTensorHistFig"),
    *planned(
        "Calibration saved and loaded; `calibration_cache` of `equiquant.quantize` does it.",
        (None,),
        "SaveAndRestore TensorsRangeFile",
    ),
    *planned("Scales of the form M/2^N.", (False,), "Int16Scale"),
    *planned("float16 models.", (False,), "QuantizeFP16"),
    *planned("float32 scales of float16 models.", (True,), "UseFP32Scale"),
    *planned("Weight type of elementwise operators.", (False,), "AlignEltwiseQuantType"),
    *planned("A fixed input shape; the calibration data decide what the model runs with.", (None, ""), "FixShapes"),
    *planned("Relu folded into Conv by a clipped range.", (False,), "FoldRelu"),
    *planned("Change of the operator set version.", (None,), "ConvertOpsetVersion"),
    *automatic(
        "Copies of shared initializers are made where they are needed.",
        "names",
        CopySharedInit=(),
        CopyBiasInit=("Conv", "ConvTranspose", "Gemm"),
    ),
    *planned("Types and scales of single tensors.", (None, {}), "TensorQuantOverrides MixedPrecisionTensor"),
    *planned(
        "Mixed precision; `TargetSQNR`, `KeepFloat` and `Int16Layers` choose layers here.",
        (None, {}),
        "AutoMixprecision",
    ),
    *planned(
        "AdaRound or AdaQuant finetuning; `BiasCorrection` and `WeightRounding`, on by default, need no training.",
        (None, {}),
        "FastFinetune",
    ),
    *planned("Strength of SmoothQuant.", (0.5,), "SmoothAlpha"),
    *planned("GPTQ; `WeightRounding` is of its kind.", (False,), "UseGPTQ"),
    *planned("Settings of GPTQ.", (None, {}), "GPTQParams"),
    *planned(
        "4-bit weights of MatMul; the preset `w4` of `equiquant.quantize` stores them so.", (False,), "UseMatMulNBits"
    ),
    *planned("Settings of 4-bit weights.", (None, {}), "MatMulNBitsParams"),
    *planned("bfloat16 formats.", (False,), "BF16WithClip BF16QDQToCast EnableVaimlBF16"),
    *planned("Block floating point formats.", (None, {}), "BFPAttributes MXAttributes"),
    *planned("Custom operator libraries.", (None,), "UserCustomOpLibPath"),
    *planned(
        "Another preparation of the model before quantization.", (None, ()), "PreprocessYAML SimplifyModelOptions"
    ),
    *planned("No preparation at all; `optimize_model=False` leaves the graph as it is.", (False,), "SkipPreprocess"),
    *planned("Layerwise choice of the percentile.", (None,), "LWPMetric PercentileCandidates"),
    *planned("Measures of accuracy during quantization.", (None,), "EvalMetrics EvalDataReader"),
]
