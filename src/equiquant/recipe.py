"""The recipe: everything a run depends on, in one frozen, checked value, saved beside the output.

`preset(name, **overrides)` gives a named recipe; `Recipe(...)` a custom one. Nonsense is refused at construction.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from equiquant.errors import OptionError, nearest
from equiquant.field_checks import check_fields

__all__ = ["FUSED_ACTIVATIONS", "IMAGE_RECIPES", "LEAST_BLOCK", "LIMITS", "PRESETS", "ImageOptions", "Recipe", "preset"]

ActivationType = Literal["uint8", "int8", "uint16", "int16"]
WeightType = Literal["int8", "uint8", "int4"]
BiasType = Literal["int8", "int16", "int32"]
ScaleKind = Literal["float", "power_of_two"]
CalibrationMethod = Literal["minmax", "minmse", "nonoverflow", "noise", "percentile", "entropy", "mse"]
MinMSEMode = Literal["all", "most_common"]
NonOverflowRounding = Literal["up", "nearest"]
CLEMethod = Literal["auto", "pairwise", "global"]
CLEAccept = Literal["measured", "always"]
WeightRounding = Literal["auto", "nearest", "optimal"]
RaiseTo = Literal["float", "int16"]
LIMITS = (
    "AlignConcat",
    "AlignPool",
    "AlignPad",
    "AlignSlice",
    "AdjustShiftCut",
    "AdjustShiftBias",
    "AdjustShiftRead",
    "AdjustShiftWrite",
    "AdjustHardSigmoid",
    "AdjustShiftSwish",
)
"""The limits of the NPU, by their documented names."""

FUSED_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu")
"""What is quantized together with the Conv or Add before it."""

MOST_BINS = 1 << 20
"""Bins of a histogram, at most: those it is made of are 16384, and more tell nothing new."""

LEAST_BLOCK = 16
"""Weights that share a scale, at least: onnxruntime has no kernel for fewer."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How image files become model inputs: decode, resize, (x · scale − mean) / std, lay out.

    Attributes:
        size: (height, width) after resizing, pixels; None takes the model's static input size.
        mean: Subtracted per channel, red, green, blue, in units after `scale`.
        std: Divided by, per channel, red, green, blue.
        scale: Multiplied first; 1/255 maps bytes to [0, 1].
        layout: `NCHW`, `NHWC`, or `auto` from the model's input shape.
        color: `RGB` or `BGR` channel order fed to the model.
        resize: `stretch` to the size; `crop`: short side to size/0.875, then the center; `letterbox`: the whole image
            in the middle, its proportions kept, the rest filled.
        fill: Gray level of what `letterbox` fills, a byte.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1 / 255
    layout: Literal["auto", "NCHW", "NHWC"] = "auto"
    color: Literal["RGB", "BGR"] = "RGB"
    resize: Literal["stretch", "crop", "letterbox"] = "crop"
    fill: int = 114

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.mean) not in (1, 3) or len(self.std) not in (1, 3):
            raise OptionError("The image 'mean' and 'std' options take 1 or 3 numbers.")
        if any(s == 0 for s in self.std) or self.scale == 0:
            raise OptionError("The image 'std' and 'scale' options must not be 0.")
        if self.size is not None and min(self.size) < 1:
            raise OptionError(f"The image 'size' option is a height and a width in pixels. Got {self.size}.")
        if not 0 <= self.fill <= 255:
            raise OptionError(f"The image 'fill' option must be in [0, 255]. Got {self.fill}.")


IMAGE_RECIPES: Mapping[str, ImageOptions] = {
    "imagenet": ImageOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "yolo": ImageOptions(resize="letterbox"),
}
"""Preparations by name: torchvision's classifiers (short side 256, center 224, mean and std of ImageNet), and YOLO's
letterbox to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One quantization run, completely.

    Attributes:
        name: The preset it came from, or `custom`.
        activation_type: Storage type of activations.
        activation_symmetric: Zero point at the type's center.
        weight_type: Storage type of weights.
        weight_symmetric: Zero point 0 for weights.
        per_channel: One weight scale per output channel.
        scale_kind: Any float32 scale, or powers of two only.
        bias_type: `int32` at scale s_x·s_w, or `int8`/`int16` with a scale of its own. On the NPU `int32` has the
            values of `int8`.
        unsigned_relu: What a Relu, or a Clip from 0, hands on uses the whole range of its type, even when symmetric.
        npu: The target is the documented CNN NPU (`enable_npu_cnn`).
        npu_limits: The positions of its scales keep within what its shifters can do; off, nothing is aligned either.
        limits_off: Limits among `LIMITS` that are left out.
        simulate_dpu: Compute what the NPU computes instead of these operators; this and the next ten take effect with
            `npu` only.
        dpu_leaky_relu: The slope of a LeakyRelu becomes n/256.
        dpu_sigmoid: A Sigmoid becomes a HardSigmoid.
        dpu_hard_sigmoid: A HardSigmoid gets the NPU's factor.
        dpu_average_pool: An average pool gets the factor of the NPU's fixed-point mean.
        dpu_reduce_mean: A ReduceMean too.
        dpu_clip: The bounds of a Clip become whole numbers.
        bn_to_conv: A BatchNormalization that is left becomes a depthwise Conv; needs no `simulate_dpu`, as the rest.
        reduce_mean_to_pool: A ReduceMean over height and width becomes a GlobalAveragePool.
        split_large_pool: A GlobalAveragePool over more than 512 values becomes two pools.
        split_to_slice: A Split becomes Slices.
        separate: Activation functions that are quantized on their own, not together with the Conv or Add before them.
        optimize: Fold the graph into its canonical form first.
        replace_clip6_relu: Replace Clip(0, 6) by Relu (changes the function; the report says by how much).
        clip_mode: How a Clip(0, c) is kept while its channels are rescaled: `exact`, only channels that never reach c
            move; `soft`, the others too, where that measures better; `per_channel` (or `per_channel:8` for the first
            eight Clips), a bound of its own a channel; `relu`, as `replace_clip6_relu`.
        cle: Equalize channels across layers.
        cle_method: The solver: `pairwise` (documented), `global` (least noise at the output), or the better of both.
        cle_accept: `measured` drops equalization that measures more than 0.7 dB below the best, `always` keeps it.
        cle_steps: Sweeps of the pairwise solver; −1 sweeps until it converges.
        cle_append_bias: The bias counts in the range of a producing row.
        bias_correction: Set each layer's bias so that its mean output is that of the float network, where that measures
            better; not by a single sample.
        weight_rounding: `nearest`; `optimal`, weights rounded for the inputs they meet, where that measures better;
            `auto`, optimal unless the network is so large that it would take long.
        calibration: How an activation's range is chosen: `minmax`; `noise`, the range that adds least noise to the
            output, clipping included, where that measures better than `mse`; `percentile`, `entropy` (least
            Kullback-Leibler divergence) and `mse` (least squared error); `minmse` and `nonoverflow` for powers of two.
        calibration_samples: Use this many samples, to the end of the last batch; None for all.
        moving_average: Min-max by a moving average over batches.
        moving_average_constant: Weight of the newest batch.
        percentile: Percent of the values that `percentile` keeps, half of the rest cut at either end.
        histogram_bins: Bins that `percentile` and `entropy` work with; None for the histogram's own, and for 128.
        minmse_mode: `all` minimizes the error over all samples; `most_common` takes the exponent that is best for
            most samples alone.
        nonoverflow_rounding: `up` never overflows; `nearest`, as the documented tool rounds, may.
        exact_histograms: Count every element, not a sample of large tensors.
        calibration_memory: MiB that the activations of one feed may take at once; more are collected in several
            passes. None for a quarter of the machine.
        symmetric_ranges: Make the range of every activation symmetric about 0, whatever method finds it.
        nodes_to_quantize: Names, globs or `re:` patterns; when given, only these nodes.
        nodes_to_exclude: Names, globs or `re:` patterns of nodes that stay float.
        subgraphs_to_exclude: Pairs (start nodes, end nodes); what lies between stays float.
        op_types_to_quantize: When given, only these op types.
        avoid_overflow: Where onnxruntime's integer kernels on this machine overflow with int8 weights, store the same
            numbers as uint8.
        keep_float: Leave this many layers float: those whose rounding does most harm.
        int16: Give this many further layers 16-bit activations: those whose activations' rounding does most harm.
        target_sqnr: Raise as few layers as reach this signal-to-noise ratio in dB on held-back samples.
        raise_to: What `target_sqnr` raises layers to.
        nodes_to_int16: Names, globs or `re:` patterns of layers with 16-bit activations.
        weight_only: Store only weights of MatMul and Gemm as integers, with a scale a block; activations stay float.
        block_size: Weights in a block: a power of two, at least 16.
        image: How image files become inputs.
        equivalence_tolerance: Largest |Δ| after equalization, relative to the output's magnitude.
        seed: Seed of made-up inputs; nothing else is left to chance.
    """

    name: str = "custom"
    activation_type: ActivationType = "uint8"
    activation_symmetric: bool = False
    weight_type: WeightType = "int8"
    weight_symmetric: bool = True
    per_channel: bool = False
    scale_kind: ScaleKind = "float"
    bias_type: BiasType = "int32"
    unsigned_relu: bool = False
    npu: bool = False
    npu_limits: bool = True
    limits_off: tuple[str, ...] = ()
    simulate_dpu: bool = True
    dpu_leaky_relu: bool = True
    dpu_sigmoid: bool = True
    dpu_hard_sigmoid: bool = True
    dpu_average_pool: bool = True
    dpu_reduce_mean: bool = True
    dpu_clip: bool = False
    bn_to_conv: bool = True
    reduce_mean_to_pool: bool = True
    split_large_pool: bool = True
    split_to_slice: bool = True
    separate: tuple[str, ...] = ()
    optimize: bool = True
    replace_clip6_relu: bool = False
    clip_mode: str = "exact"
    cle: bool = True
    cle_method: CLEMethod = "auto"
    cle_accept: CLEAccept = "measured"
    cle_steps: int = 1
    cle_append_bias: bool = True
    bias_correction: bool = True
    weight_rounding: WeightRounding = "auto"
    calibration: CalibrationMethod = "minmax"
    calibration_samples: int | None = None
    moving_average: bool = False
    moving_average_constant: float = 0.01
    percentile: float = 99.999
    histogram_bins: int | None = None
    minmse_mode: MinMSEMode = "all"
    nonoverflow_rounding: NonOverflowRounding = "up"
    exact_histograms: bool = False
    calibration_memory: int | None = None
    symmetric_ranges: bool = False
    nodes_to_quantize: tuple[str, ...] = ()
    nodes_to_exclude: tuple[str, ...] = ()
    subgraphs_to_exclude: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    op_types_to_quantize: tuple[str, ...] = ()
    avoid_overflow: bool = True
    keep_float: int = 0
    int16: int = 0
    target_sqnr: float | None = None
    raise_to: RaiseTo = "float"
    nodes_to_int16: tuple[str, ...] = ()
    weight_only: bool = False
    block_size: int = 32
    image: ImageOptions = field(default_factory=ImageOptions)
    equivalence_tolerance: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if bad := set(self.separate) - set(FUSED_ACTIVATIONS):
            known = ", ".join(FUSED_ACTIVATIONS)
            raise OptionError(f"The 'separate' option takes {known}. Got {', '.join(sorted(bad))} instead.")
        if self.cle_steps < 1 and self.cle_steps != -1:
            raise OptionError(
                "The 'cle_steps' option (CLESteps) must be a positive number of sweeps, or -1 to sweep until"
                f" convergence. Got {self.cle_steps}."
            )
        if not re.fullmatch(r"exact|soft|relu|per_channel(:[1-9][0-9]*)?", self.clip_mode):
            raise OptionError(
                "The 'clip_mode' option (ClipMode) must be 'exact', 'soft', 'relu', 'per_channel' or 'per_channel:N'."
                f" Got {self.clip_mode!r} instead."
            )
        if self.replace_clip6_relu and self.clip_mode not in ("exact", "relu"):
            raise OptionError(
                f"replace_clip6_relu (ReplaceClip6Relu) removes the Clips that clip_mode='{self.clip_mode}' would keep."
            )
        for name, told in (
            ("calibration_samples", "CalibDataSize"),
            ("calibration_memory", "CalibMemoryLimit, in MiB"),
        ):
            if (number := getattr(self, name)) is not None and number < 1:
                raise OptionError(f"The '{name}' option ({told}) must be at least 1. Got {number}.")
        if not 0 < self.moving_average_constant <= 1:
            raise OptionError(
                "The 'moving_average_constant' option (CalibMovingAverageConstant) must be in (0, 1]."
                f" Got {self.moving_average_constant}."
            )
        if self.moving_average and self.calibration != "minmax":
            raise OptionError(
                f"moving_average (CalibMovingAverage) averages min-max ranges; calibration is '{self.calibration}'."
            )
        for name, number in (("equivalence_tolerance", self.equivalence_tolerance), ("seed", self.seed)):
            if number < 0:
                raise OptionError(f"The '{name}' option must be at least 0. Got {number}.")
        if self.calibration in ("minmse", "nonoverflow") and self.scale_kind != "power_of_two":
            raise OptionError(
                f"Calibration '{self.calibration}' chooses power-of-two scales, but scale_kind is 'float'."
                " Use scale_kind='power_of_two', or calibration='minmax'."
            )
        if self.per_channel and self.scale_kind == "power_of_two" and self.npu:
            raise OptionError("The NPU target runs per-tensor weights only: per_channel must be False.")
        if self.scale_kind == "float" and self.bias_type != "int32":
            raise OptionError("Float scales need bias_type='int32' (scale s_x·s_w).")
        if self.calibration in ("noise", "percentile", "entropy", "mse") and self.scale_kind != "float":
            raise OptionError(
                f"Calibration '{self.calibration}' chooses float scales: the presets a8w8, a8w8_per_channel and"
                " a16w8 have them. Powers of two take 'minmse' or 'nonoverflow'."
            )
        if not 50 < self.percentile <= 100:
            raise OptionError(f"The 'percentile' option (Percentile) must be in (50, 100]. Got {self.percentile}.")
        if self.histogram_bins is not None and not 2 <= self.histogram_bins <= MOST_BINS:
            raise OptionError(
                f"The 'histogram_bins' option (NumBins) must be from 2 to {MOST_BINS}. Got {self.histogram_bins}."
            )
        for name in self.limits_off:
            if name not in LIMITS:
                raise OptionError(f"limits_off: there is no limit '{name}'.{nearest(name, LIMITS)}")
        self._check_mixed_precision()
        self._check_weight_only()

    def _check_mixed_precision(self) -> None:
        for name, count in (("keep_float", self.keep_float), ("int16", self.int16)):
            if count < 0:
                raise OptionError(f"The '{name}' option is a number of layers, at least 0. Got {count}.")
        if self.target_sqnr is not None:
            if not 0 < self.target_sqnr < 200:
                raise OptionError(f"The 'target_sqnr' option is in dB, above 0 and below 200. Got {self.target_sqnr}.")
            if self.keep_float or self.int16:
                given = "keep_float" if self.keep_float else "int16"
                raise OptionError(f"Give either target_sqnr, which chooses the number of layers, or {given}, not both.")
        elif self.raise_to != "float":
            raise OptionError("The 'raise_to' option says what target_sqnr raises layers to; give target_sqnr as well.")
        if self.raises_to_int16 and self.activation_type in ("uint16", "int16"):
            raise OptionError(f"All activations are {self.activation_type} already: no layer can be raised to 16 bits.")

    def _check_weight_only(self) -> None:
        if self.block_size < LEAST_BLOCK or self.block_size & (self.block_size - 1):
            raise OptionError(
                f"The 'block_size' option must be a power of two, at least {LEAST_BLOCK}. Got {self.block_size}."
            )
        if not self.weight_only:
            if self.weight_type == "int4":
                raise OptionError("int4 weights need weight_only=True, as in the preset w4.")
            return
        if self.weight_type == "uint8" or not self.weight_symmetric:
            raise OptionError("Weight-only quantization is symmetric: weight_type is 'int4' or 'int8'.")
        if self.cle:
            raise OptionError("Weight-only quantization has a scale a block and does not equalize: cle must be False.")
        if self.bias_correction:
            raise OptionError("Weight-only quantization leaves biases as they are: bias_correction must be False.")
        if self.npu:
            raise OptionError("The NPU computes with integers: weight_only needs npu=False.")
        if self.mixes or self.nodes_to_int16:
            raise OptionError("With weight_only the activations are float already; use nodes_to_exclude for weights.")

    @property
    def mixes(self) -> bool:
        """True if layers of another precision are to be chosen."""
        return bool(self.keep_float or self.int16 or self.target_sqnr is not None)

    @property
    def raises_to_int16(self) -> bool:
        """True if some layers may get 16-bit activations."""
        return bool(self.int16 or self.raise_to == "int16" or self.nodes_to_int16)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return dataclasses.asdict(self)

    def replace(self, **overrides: Any) -> Recipe:
        """Return a copy with some fields replaced.

        Raises:
            OptionError: Unknown field, or values that contradict each other.
        """
        known = {f.name for f in dataclasses.fields(self)}
        for key in overrides:
            if key not in known:
                raise OptionError(f"Unknown option '{key}'.{nearest(key, known)}")
        return dataclasses.replace(self, **overrides)


_XINT8 = Recipe(
    name="xint8",
    activation_type="uint8",
    activation_symmetric=True,
    scale_kind="power_of_two",
    bias_type="int8",
    npu=True,
    calibration="minmse",
)
_A8W8 = Recipe(name="a8w8", calibration="noise")
_W8 = Recipe(name="w8", weight_only=True, cle=False, bias_correction=False)

PRESETS: Mapping[str, Recipe] = {
    "xint8": _XINT8,
    "a8w8": _A8W8,
    "a8w8_per_channel": dataclasses.replace(_A8W8, name="a8w8_per_channel", per_channel=True),
    "a16w8": dataclasses.replace(_A8W8, name="a16w8", activation_type="uint16"),
    "w8": _W8,
    "w4": dataclasses.replace(_W8, name="w4", weight_type="int4"),
}


def preset(name: str, **overrides: Any) -> Recipe:
    """Return the recipe of a preset with some fields replaced.

    Args:
        name: A key of `PRESETS`.
        **overrides: Fields of `Recipe`.

    Raises:
        OptionError: Unknown preset or field, or values that contradict each other.

    >>> preset("a8w8", cle_steps=2).cle_steps
    2
    """
    if name not in PRESETS:
        raise OptionError(f"Unknown preset '{name}'.{nearest(name, PRESETS)} Known: {', '.join(PRESETS)}.")
    return PRESETS[name].replace(**overrides)
