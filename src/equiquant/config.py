"""The documented API of AMD Quark ONNX, mapped onto a `Recipe`: an existing script changes its imports, nothing else.

    quantizer = ModelQuantizer(Config(global_quant_config=QuantizationConfig(...)))
    quantizer.quantize_model(model_input, model_output, calibration_data_reader)

`options.table` says what every argument and extra option means; `QuantizationConfig.to_recipe` is the whole mapping.
Source: AMD Quark documentation, "Configuring ONNX Quantization"; onnxruntime, "Quantize ONNX models".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType

from equiquant import api
from equiquant.errors import OptionError, nearest
from equiquant.options import ARGUMENTS, EXTRA_OPTIONS, PowerOfTwoMethod, check, lookup, plain
from equiquant.recipe import FUSED_ACTIVATIONS, LIMITS, PRESETS, Recipe

if TYPE_CHECKING:
    import onnx

    from equiquant.io import ModelLike
    from equiquant.report import Report

__all__ = [
    "CalibrationDataReader",
    "CalibrationMethod",
    "Config",
    "ModelQuantizer",
    "PowerOfTwoMethod",
    "QuantFormat",
    "QuantType",
    "QuantizationConfig",
    "get_default_config",
]

_ACTIVATION_TYPES: Mapping[QuantType, Any] = {
    QuantType.QUInt8: "uint8",
    QuantType.QInt8: "int8",
    QuantType.QUInt16: "uint16",
    QuantType.QInt16: "int16",
}
_WEIGHT_TYPES: Mapping[QuantType, Any] = {QuantType.QInt8: "int8", QuantType.QUInt8: "uint8"}
_CALIBRATION: Mapping[Enum, Any] = {
    CalibrationMethod.MinMax: "minmax",
    CalibrationMethod.Percentile: "percentile",
    CalibrationMethod.Entropy: "entropy",
    CalibrationMethod.Distribution: "minmax",  # onnxruntime: for integers, the ends of its symmetric histogram
    PowerOfTwoMethod.MinMSE: "minmse",
    PowerOfTwoMethod.NonOverflow: "nonoverflow",
}
_MINMSE_MODES: Mapping[Any, Any] = {"All": "all", "MostCommon": "most_common"}
_EIGHT_BITS = (QuantType.QUInt8, QuantType.QInt8)


class QuantizationConfig:
    """How to quantize, in the documented names; docs/options.md explains each.

    The object can be changed after it is made, as existing scripts do; it is checked when made and again when used.

    Args:
        calibrate_method: `CalibrationMethod.MinMax`, or a `PowerOfTwoMethod`.
        quant_format: `QuantFormat.QDQ`.
        activation_type: Storage type of activations.
        weight_type: Storage type of weights.
        enable_npu_cnn: Quantize for the CNN NPU.
        include_cle: Equalize channels across layers first.
        per_channel: One weight scale per output channel.
        optimize_model: Fold the graph into its canonical form first.
        op_types_to_quantize: Only these operator types.
        nodes_to_quantize: Only these nodes.
        nodes_to_exclude: Keep these nodes float.
        subgraphs_to_exclude: Pairs ([start nodes], [end nodes]) that stay float.
        extra_options: More options by name.
        **others: The remaining documented arguments; those whose feature is not available yet take their default only.

    Raises:
        OptionError: An unknown name, a wrong type, options that contradict each other, or a feature not available yet.

    >>> QuantizationConfig(extra_options={"CLEStep": 2})
    Traceback (most recent call last):
    equiquant.errors.OptionError: Unknown key of extra_options 'CLEStep'. Did you mean 'CLESteps' ...
    """

    calibrate_method: CalibrationMethod | PowerOfTwoMethod
    quant_format: QuantFormat
    activation_type: QuantType
    weight_type: QuantType
    enable_npu_cnn: bool
    include_cle: bool
    per_channel: bool
    optimize_model: bool
    op_types_to_quantize: Sequence[str]
    nodes_to_quantize: Sequence[str]
    nodes_to_exclude: Sequence[str]
    subgraphs_to_exclude: Sequence[tuple[Sequence[str], Sequence[str]]]
    extra_options: dict[str, Any]

    def __init__(
        self,
        *,
        calibrate_method: CalibrationMethod | PowerOfTwoMethod = CalibrationMethod.MinMax,
        quant_format: QuantFormat = QuantFormat.QDQ,
        activation_type: QuantType = QuantType.QInt8,
        weight_type: QuantType = QuantType.QInt8,
        enable_npu_cnn: bool = False,
        include_cle: bool = True,
        per_channel: bool = False,
        optimize_model: bool = True,
        op_types_to_quantize: Sequence[str] | None = None,
        nodes_to_quantize: Sequence[str] | None = None,
        nodes_to_exclude: Sequence[str] | None = None,
        subgraphs_to_exclude: Sequence[tuple[Sequence[str], Sequence[str]]] | None = None,
        extra_options: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        given = {
            "calibrate_method": calibrate_method,
            "quant_format": quant_format,
            "activation_type": activation_type,
            "weight_type": weight_type,
            "enable_npu_cnn": enable_npu_cnn,
            "include_cle": include_cle,
            "per_channel": per_channel,
            "optimize_model": optimize_model,
            "op_types_to_quantize": [] if op_types_to_quantize is None else op_types_to_quantize,
            "nodes_to_quantize": [] if nodes_to_quantize is None else nodes_to_quantize,
            "nodes_to_exclude": [] if nodes_to_exclude is None else nodes_to_exclude,
            "subgraphs_to_exclude": [] if subgraphs_to_exclude is None else subgraphs_to_exclude,
        }
        for name, option in ARGUMENTS.items():
            default = list(option.default) if isinstance(option.default, tuple) else option.default
            setattr(self, name, given.get(name, default))
        for name, value in others.items():
            setattr(self, name, value)
        self.extra_options = dict(_mapping(extra_options))
        self.to_recipe()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a documented argument; a misspelt name is refused rather than kept unused."""
        if name != "extra_options":
            lookup(name, "argument")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        changed = {n: getattr(self, n) for n, o in ARGUMENTS.items() if plain(getattr(self, n)) != o.default}
        shown = [f"{name}={value!r}" for name, value in changed.items()]
        return f"QuantizationConfig({', '.join([*shown, f'extra_options={self.extra_options!r}'])})"

    def to_recipe(self) -> Recipe:
        """Return the recipe these options describe.

        Raises:
            OptionError: As for the constructor.
        """
        o: dict[str, Any] = {name: check(option, getattr(self, name)) for name, option in ARGUMENTS.items()}
        extra = _mapping(self.extra_options)
        o |= {name: option.default for name, option in EXTRA_OPTIONS.items()}
        o |= {name: check(lookup(name, "extra_options"), value) for name, value in extra.items()}
        _refuse_unavailable(o)
        _refuse_contradictions(o)
        power_of_two = isinstance(o["calibrate_method"], PowerOfTwoMethod)
        rows = (*ARGUMENTS.values(), *EXTRA_OPTIONS.values())
        values: dict[str, Any] = {row.fields[0]: o[row.name] for row in rows if len(row.fields) == 1}
        values |= {  # those that are not simply what was given
            "activation_type": _ACTIVATION_TYPES[o["activation_type"]],
            "activation_symmetric": _default(o["ActivationSymmetric"], o["enable_npu_cnn"]),
            "weight_type": _WEIGHT_TYPES[o["weight_type"]],
            "weight_symmetric": _default(o["WeightSymmetric"], o["weight_type"] is QuantType.QInt8),
            "scale_kind": "power_of_two" if power_of_two else "float",
            "bias_type": _bias_type(o),
            "limits_off": tuple(name for name in LIMITS if not o[name]),
            "separate": tuple(a for a in FUSED_ACTIVATIONS if not o[f"RemoveQDQConv{a}"]),
            "calibration": _CALIBRATION[o["calibrate_method"]],
            "percentile": float(o["Percentile"]),
            "minmse_mode": _minmse_mode(o, extra),
            "symmetric_ranges": not power_of_two
            and _default(o["CalibTensorRangeSymmetric"], o["calibrate_method"] is CalibrationMethod.Distribution),
            "nodes_to_quantize": _patterns(o["nodes_to_quantize"]),
            "nodes_to_exclude": _patterns(o["nodes_to_exclude"]),
        }
        recipe = Recipe(**values)
        named = (dataclasses.replace(recipe, name=name) for name in PRESETS)
        return next((r for r in named if r == PRESETS[r.name]), recipe)


def _mapping(extra: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise OptionError(f"'extra_options' must be a dictionary. Got {extra!r} instead.")
    return extra


def _minmse_mode(o: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return the mode, given under either of its names."""
    modes = {o[name] for name in ("MinMSEModePof2Scale", "MinMSEMode") if name in given}
    if len(modes) > 1:
        raise OptionError(
            f"MinMSEMode={o['MinMSEMode']!r} contradicts MinMSEModePof2Scale={o['MinMSEModePof2Scale']!r}, of which it"
            " is the older name: give one of them."
        )
    return str(_MINMSE_MODES[modes.pop() if modes else o["MinMSEModePof2Scale"]])


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _bias_type(o: Mapping[str, Any]) -> str:
    if o["Int16Bias"]:
        return "int16"
    if _default(o["Int32Bias"], not o["enable_npu_cnn"]):
        return "int32"
    return "int8"


def _patterns(names: Sequence[str]) -> tuple[str, ...]:
    """Return node names with documented regular expressions (`^...`, found at the start) as `re:` patterns."""
    return tuple(f"re:(?:{n}).*" if n.startswith("^") else n for n in names)


def _refuse_unavailable(o: Mapping[str, Any]) -> None:
    """Refuse members of onnxruntime's enumerations that nothing here implements."""
    if o["quant_format"] is not QuantFormat.QDQ:
        raise OptionError(
            "QuantFormat.QOperator is not available: QuantizeLinear and DequantizeLinear are what is"
            " written. Use quant_format=QuantFormat.QDQ."
        )
    tables: dict[str, Mapping[Any, Any]] = {
        "activation_type": _ACTIVATION_TYPES,
        "weight_type": _WEIGHT_TYPES,
        "calibrate_method": _CALIBRATION,
    }
    for name, known in tables.items():
        if o[name] not in known:
            choices = ", ".join(f"{type(k).__name__}.{k.name}" for k in known)
            raise OptionError(f"{name}={o[name]!s} is not available yet. Available are {choices}.")


def _refuse_contradictions(o: Mapping[str, Any]) -> None:
    """Refuse options that cannot hold together, naming both."""
    npu, power_of_two = o["enable_npu_cnn"], isinstance(o["calibrate_method"], PowerOfTwoMethod)
    methods = "PowerOfTwoMethod.MinMSE or PowerOfTwoMethod.NonOverflow"
    rules = (
        (npu and not power_of_two, f"enable_npu_cnn=True needs power-of-two scales: calibrate_method={methods}."),
        (npu and o["per_channel"], "enable_npu_cnn=True runs per-tensor weights only: per_channel must be False."),
        (npu and o["weight_type"] is not QuantType.QInt8, "enable_npu_cnn=True needs weight_type=QuantType.QInt8."),
        (
            npu and o["activation_type"] not in _EIGHT_BITS,
            "enable_npu_cnn=True needs 8-bit activations: activation_type=QuantType.QUInt8 or QuantType.QInt8.",
        ),
        (npu and o["ActivationSymmetric"] is False, "enable_npu_cnn=True needs ActivationSymmetric=True."),
        (npu and o["WeightSymmetric"] is False, "enable_npu_cnn=True needs WeightSymmetric=True."),
        (
            o["calibrate_method"] is not CalibrationMethod.MinMax and o["CalibMovingAverage"],
            "CalibMovingAverage=True works with CalibrationMethod.MinMax only.",
        ),
        (
            power_of_two and o["CalibTensorRangeSymmetric"] is False,
            "CalibTensorRangeSymmetric=False contradicts a PowerOfTwoMethod, whose ranges are symmetric.",
        ),
        (
            not power_of_two and (o["Int16Bias"] or o["Int32Bias"] is False),
            f"8-bit and 16-bit biases need power-of-two scales: leave Int32Bias True, or use {methods}.",
        ),
    )
    for broken, message in rules:
        if broken:
            raise OptionError(message)


_XINT8: Mapping[str, Any] = {
    "calibrate_method": PowerOfTwoMethod.MinMSE,
    "activation_type": QuantType.QUInt8,
    "enable_npu_cnn": True,
    "extra_options": {"ActivationSymmetric": True},
}
_PERCENTILE: Mapping[str, Any] = {"calibrate_method": CalibrationMethod.Percentile}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "XINT8": _XINT8,
    "A8W8": {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}},
    "A16W8": {"activation_type": QuantType.QInt16, "extra_options": {"ActivationSymmetric": True}},
    "INT8_CNN_DEFAULT": {"activation_type": QuantType.QUInt8},
    "S8S8_AAWS": {**_PERCENTILE, "extra_options": {"Percentile": 99.9999}},
    "U8S8_AAWS": {**_PERCENTILE, "activation_type": QuantType.QUInt8},
    "U8U8_AAWA": {**_PERCENTILE, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "U16S8_AAWS": {**_PERCENTILE, "activation_type": QuantType.QUInt16},
    "S16S8_ASWS": {
        **_PERCENTILE,
        "activation_type": QuantType.QInt16,
        "extra_options": {"ActivationSymmetric": True},
    },
}


def get_default_config(name: str) -> QuantizationConfig:
    """Return one of the documented configurations by name, anew at every call.

    `XINT8` is for the CNN NPU; `A8W8` and `A16W8` have symmetric int8 and int16 activations with float scales;
    `INT8_CNN_DEFAULT` has asymmetric uint8 activations with float scales. In the others' names the first type is
    that of activations and the second that of weights, AA and AS are asymmetric and symmetric activations, WA and WS
    weights; their ranges are percentiles.

    Raises:
        OptionError: There is no configuration of this name.
    """
    if not isinstance(name, str) or name not in _DEFAULTS:
        raise OptionError(
            f"There is no default configuration '{name}'.{nearest(name, _DEFAULTS)}"
            f" Available are {', '.join(_DEFAULTS)}."
        )
    return QuantizationConfig(**_DEFAULTS[name])


@dataclass
class Config:
    """The configuration of a run.

    Attributes:
        global_quant_config: Holds for the whole model.
    """

    global_quant_config: QuantizationConfig

    def __post_init__(self) -> None:
        if not isinstance(self.global_quant_config, QuantizationConfig):
            raise OptionError(
                "'global_quant_config' must be a QuantizationConfig, as get_default_config(name) makes."
                f" Got {self.global_quant_config!r} instead."
            )


class ModelQuantizer:
    """Quantizes models as a configuration says.

    Args:
        config: The configuration.

    Attributes:
        report: The report of the last run, None before it.

    Raises:
        OptionError: `config` is not a configuration.
    """

    def __init__(self, config: Config | QuantizationConfig) -> None:
        if isinstance(config, QuantizationConfig):
            config = Config(config)
        if not isinstance(config, Config):
            raise OptionError(f"ModelQuantizer takes a Config(global_quant_config=...). Got {config!r} instead.")
        self.config = config
        self.report: Report | None = None

    def quantize_model(
        self,
        model_input: ModelLike,
        model_output: str | Path | None = None,
        calibration_data_reader: CalibrationDataReader | None = None,
        calibration_data_path: str | Path | None = None,
    ) -> onnx.ModelProto:
        """Quantize a model.

        Args:
            model_input: A path, an `onnx.ModelProto` or an `onnx_ir.Model`; never changed.
            model_output: Where to write the result; None writes nothing.
            calibration_data_reader: Anything with `get_next()`. Without a reader and a path, synthetic inputs are
                used, with a warning.
            calibration_data_path: A folder of .npy files or images, or an .npy or .npz file.

        Returns:
            The quantized model; above 2 GB its weights stay in the file beside `model_output`. `report` holds the
            report.

        Raises:
            EquiQuantError: The options, the model, the data or the output cannot be used.
        """
        if calibration_data_reader is not None and calibration_data_path is not None:
            raise OptionError("Give calibration_data_reader or calibration_data_path, not both.")
        data = calibration_data_path if calibration_data_reader is None else calibration_data_reader
        result = api.run_recipe(model_input, model_output, self.config.global_quant_config.to_recipe(), data=data)
        self.report = result.report
        return result.model
