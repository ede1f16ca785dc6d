"""The documented API: every documented name, its default, its recipe field, and every way to get it wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiquant import options
from equiquant.config import (
    CalibrationMethod,
    Config,
    ModelQuantizer,
    PowerOfTwoMethod,
    QuantFormat,
    QuantizationConfig,
    QuantType,
    get_default_config,
)
from equiquant.errors import OptionError
from equiquant.options import ARGUMENTS, EXTRA_OPTIONS
from equiquant.recipe import Recipe, preset

ROOT = Path(__file__).resolve().parent.parent

DOCUMENTED: dict[str, Any] = {
    "quant_format": QuantFormat.QDQ,
    "calibrate_method": PowerOfTwoMethod.MinMSE,
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
    "enable_npu_cnn": True,
    "include_cle": True,
    "extra_options": {
        "ActivationSymmetric": True,
        "ReplaceClip6Relu": True,
        "CLESteps": 1,
        "CLEScaleAppendBias": True,
    },
}
NPU: dict[str, Any] = {"enable_npu_cnn": True, "calibrate_method": PowerOfTwoMethod.MinMSE}


def recipe(**arguments: Any) -> Recipe:
    return QuantizationConfig(**arguments).to_recipe()


def extra(key: str, value: object, **arguments: Any) -> Recipe:
    return recipe(**arguments, extra_options={key: value})


def changed(base: Recipe, other: Recipe) -> dict[str, object]:
    fields = (f.name for f in dataclasses.fields(Recipe) if f.name != "name")
    return {f: getattr(other, f) for f in fields if getattr(base, f) != getattr(other, f)}


# What the documentation says


def test_the_documented_configuration_is_xint8_with_relu6_replaced() -> None:
    assert changed(preset("xint8"), recipe(**DOCUMENTED)) == {"replace_clip6_relu": True}


def test_documented_defaults() -> None:
    made = recipe()
    assert (made.cle, made.replace_clip6_relu, made.cle_steps, made.cle_append_bias) == (True, False, 1, True)
    assert (made.activation_type, made.weight_type, made.scale_kind, made.bias_type) == (
        "int8",
        "int8",
        "float",
        "int32",
    )
    assert (made.activation_symmetric, made.weight_symmetric, made.npu, made.optimize) == (False, True, False, True)
    assert (made.calibration, made.calibration_samples, made.per_channel) == ("minmax", None, False)


def test_min_max_without_npu_is_a8w8() -> None:
    made = recipe(calibrate_method=CalibrationMethod.MinMax, activation_type=QuantType.QUInt8)
    assert made == dataclasses.replace(preset("a8w8"), calibration="minmax", name=made.name)


def test_power_of_two_without_npu_keeps_int32_bias() -> None:
    made = recipe(calibrate_method=PowerOfTwoMethod.NonOverflow)
    assert (made.scale_kind, made.calibration, made.bias_type, made.npu) == (
        "power_of_two",
        "nonoverflow",
        "int32",
        False,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"activation_type": QuantType.QInt16}, {"activation_type": "int16"}),
        ({"activation_type": QuantType.QUInt16}, {"activation_type": "uint16"}),
        ({"weight_type": QuantType.QUInt8}, {"weight_type": "uint8", "weight_symmetric": False}),
        ({"include_cle": False}, {"cle": False}),
        ({"per_channel": True}, {"per_channel": True}),
        ({"optimize_model": False}, {"optimize": False}),
        ({"op_types_to_quantize": ["Conv"]}, {"op_types_to_quantize": ("Conv",)}),
        ({"nodes_to_quantize": ["a", "b*"]}, {"nodes_to_quantize": ("a", "b*")}),
        ({"nodes_to_exclude": ("re:a.*",)}, {"nodes_to_exclude": ("re:a.*",)}),
        ({"nodes_to_exclude": ["^/stem/.*"]}, {"nodes_to_exclude": ("re:(?:^/stem/.*).*",)}),
        ({"subgraphs_to_exclude": [(["a"], ["b", "c"])]}, {"subgraphs_to_exclude": ((("a",), ("b", "c")),)}),
        ({"extra_options": {"ReplaceClip6Relu": True}}, {"replace_clip6_relu": True}),
        ({"extra_options": {"CLESteps": -1}}, {"cle_steps": -1}),
        ({"extra_options": {"CLEScaleAppendBias": False}}, {"cle_append_bias": False}),
        ({"extra_options": {"CLEMethod": "pairwise"}}, {"cle_method": "pairwise"}),
        ({"extra_options": {"CLEMethod": "global"}}, {"cle_method": "global"}),
        ({"extra_options": {"CLEAccept": "always"}}, {"cle_accept": "always"}),
        ({"extra_options": {"ClipMode": "per_channel:8"}}, {"clip_mode": "per_channel:8"}),
        ({"extra_options": {"ActivationSymmetric": True}}, {"activation_symmetric": True}),
        ({"extra_options": {"WeightSymmetric": False}}, {"weight_symmetric": False}),
        ({"extra_options": {"UseUnsignedReLU": True}}, {"unsigned_relu": True}),
        ({"extra_options": {"KeepFloat": 2}}, {"keep_float": 2}),
        ({"extra_options": {"Int16Layers": 2}}, {"int16": 2}),
        ({"extra_options": {"TargetSQNR": 20.0}}, {"target_sqnr": 20.0}),
        ({"extra_options": {"TargetSQNR": 20, "RaiseTo": "int16"}}, {"target_sqnr": 20, "raise_to": "int16"}),
        ({"extra_options": {"MinMSEMode": "MostCommon"}}, {"minmse_mode": "most_common"}),
        (
            {"extra_options": {"MinMSEMode": "MostCommon", "MinMSEModePof2Scale": "MostCommon"}},
            {"minmse_mode": "most_common"},
        ),
        ({"extra_options": {"CalibDataSize": 7}}, {"calibration_samples": 7}),
        ({"extra_options": {"CalibTensorRangeSymmetric": True}}, {"symmetric_ranges": True}),
        ({"extra_options": {"CalibMovingAverage": True}}, {"moving_average": True}),
        ({"extra_options": {"CalibMovingAverageConstant": 0.5}}, {"moving_average_constant": 0.5}),
    ],
)
def test_each_option_sets_its_fields_and_nothing_else(arguments: dict[str, Any], expected: dict[str, object]) -> None:
    assert changed(recipe(), recipe(**arguments)) == expected
    names = {*arguments, *arguments.get("extra_options", {})} - {"extra_options"}
    rows = [(ARGUMENTS | EXTRA_OPTIONS)[name] for name in names]  # type: ignore[operator]
    assert set(expected) - {"weight_symmetric"} <= {f for row in rows for f in row.fields}


@pytest.mark.parametrize(
    ("options_given", "bias"),
    [({}, "int8"), ({"Int32Bias": True}, "int32"), ({"Int32Bias": False}, "int8"), ({"Int16Bias": True}, "int16")],
)
def test_bias_type_on_the_npu(options_given: dict[str, Any], bias: str) -> None:
    assert recipe(**NPU, extra_options=options_given).bias_type == bias


def test_npu_activations_are_symmetric_unless_told_otherwise() -> None:
    assert recipe(**NPU).activation_symmetric


@given(st.sampled_from([o for o in EXTRA_OPTIONS.values() if o.default is not None]))
def test_giving_a_documented_default_changes_nothing(option: Any) -> None:
    assert extra(option.name, option.default) == recipe()


@pytest.mark.parametrize("option", [o for o in EXTRA_OPTIONS.values() if o.state == "planned"], ids=lambda o: o.name)
def test_planned_features_accept_what_asks_for_nothing(option: Any) -> None:
    for value in option.accepts:
        assert extra(option.name, list(value) if isinstance(value, tuple) else value) == recipe()


@pytest.mark.parametrize("option", ARGUMENTS.values(), ids=lambda o: o.name)
def test_every_argument_takes_its_default(option: Any) -> None:
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    assert recipe(**{option.name: default}) == recipe()
    assert getattr(QuantizationConfig(), option.name) == default


def test_table_fields_are_recipe_fields_and_cover_the_documented_ones() -> None:
    named = {f for o in (*ARGUMENTS.values(), *EXTRA_OPTIONS.values()) for f in o.fields}
    ours = {"name", "image", "equivalence_tolerance", "seed"}
    assert named <= {f.name for f in dataclasses.fields(Recipe)}
    assert {f.name for f in dataclasses.fields(Recipe)} - named >= ours


def test_the_page_is_the_table() -> None:
    assert (ROOT / "docs" / "options.md").read_text() == options.markdown()


# What existing scripts do


def test_a_configuration_can_be_changed_after_it_is_made() -> None:
    config = get_default_config("XINT8")
    config.include_cle = False
    config.extra_options["CLESteps"] = 3
    assert changed(preset("xint8"), config.to_recipe()) == {"cle": False, "cle_steps": 3}
    assert get_default_config("XINT8").to_recipe() == preset("xint8")


def test_changes_are_checked_too() -> None:
    config = QuantizationConfig()
    with pytest.raises(OptionError, match="Did you mean 'include_cle'"):
        config.include_cles = False
    config.per_channel = "yes"  # type: ignore[assignment]
    with pytest.raises(OptionError, match="'per_channel' must be of type bool"):
        config.to_recipe()


def test_default_configurations() -> None:
    a8w8 = get_default_config("A8W8").to_recipe()
    assert (a8w8.activation_type, a8w8.activation_symmetric, a8w8.scale_kind) == ("int8", True, "float")
    assert get_default_config("A16W8").to_recipe().activation_type == "int16"
    default = get_default_config("INT8_CNN_DEFAULT").to_recipe()
    assert default.replace(name="a8w8") == preset("a8w8", calibration="minmax")
    with pytest.raises(OptionError, match="Did you mean 'XINT8'"):
        get_default_config("XINT88")
    with pytest.raises(OptionError, match="no default configuration 'None'"):
        get_default_config(None)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no default configuration"):
        get_default_config(["XINT8"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "activation", "symmetric", "weight", "percentile"),
    [
        ("S8S8_AAWS", "int8", False, "int8", 99.9999),
        ("U8S8_AAWS", "uint8", False, "int8", 99.999),
        ("U8U8_AAWA", "uint8", False, "uint8", 99.999),
        ("U16S8_AAWS", "uint16", False, "int8", 99.999),
        ("S16S8_ASWS", "int16", True, "int8", 99.999),
    ],
)
def test_default_configurations_named_after_their_types(
    name: str, activation: str, symmetric: bool, weight: str, percentile: float
) -> None:
    recipe = get_default_config(name).to_recipe()
    assert (recipe.activation_type, recipe.activation_symmetric) == (activation, symmetric)
    assert (recipe.weight_type, recipe.weight_symmetric) == (weight, weight == "int8")
    assert (recipe.calibration, recipe.percentile, recipe.scale_kind) == ("percentile", percentile, "float")


def test_what_asks_for_nothing_and_numbers_of_numpy_are_taken() -> None:
    config = QuantizationConfig(
        execution_providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
        input_nodes=None,
        extra_options={"CLESteps": np.int64(2), "CalibWorkerNum": 4, "CopySharedInit": ["Conv"], "FastFinetune": None},
    )
    assert changed(QuantizationConfig().to_recipe(), config.to_recipe()) == {"cle_steps": 2}
    assert type(config.to_recipe().cle_steps) is int


def test_repr_shows_what_is_not_default() -> None:
    shown = repr(QuantizationConfig(include_cle=False, nodes_to_exclude=["a"]))
    assert shown == "QuantizationConfig(include_cle=False, nodes_to_exclude=['a'], extra_options={})"
    names = np.array(["a", "b"])
    assert "nodes_to_exclude=array(['a', 'b']" in repr(QuantizationConfig(nodes_to_exclude=names))  # type: ignore[arg-type]


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include_clee": True}, "Did you mean 'include_cle'"),
        ({"enable_dpu": True}, "Unknown argument"),
        ({"CLESteps": 2}, "'CLESteps' is a key of extra_options"),
        ({"extra_options": {"CLEStep": 2}}, "Did you mean 'CLESteps'"),
        ({"extra_options": {"replaceclip6relu": True}}, "Did you mean 'ReplaceClip6Relu'"),
        ({"extra_options": {"include_cle": True}}, "'include_cle' is an argument of QuantizationConfig"),
        ({"extra_options": {3: True}}, "Unknown key"),
        ({"extra_options": ["CLESteps"]}, "'extra_options' must be a dictionary"),
        ({"include_cle": 1}, "'include_cle' must be of type bool"),
        ({"extra_options": {"CLESteps": 1.5}}, "'CLESteps' must be of type int"),
        ({"extra_options": {"CLESteps": True}}, "'CLESteps' must be of type int"),
        ({"extra_options": {"CLESteps": 0}}, r"CLESteps\) must be a positive number"),
        ({"extra_options": {"CLESteps": None}}, "'CLESteps' must be of type int"),
        ({"extra_options": {"CLEMethod": "best"}}, "'CLEMethod' must be one of 'auto', 'pairwise', 'global'"),
        ({"extra_options": {"CLEMethod": None}}, "'CLEMethod' must be of type str"),
        ({"extra_options": {"CLEAccept": True}}, "'CLEAccept' must be of type str"),
        ({"extra_options": {"ClipMode": "per_channel:0"}}, r"ClipMode\) must be 'exact'"),
        ({"extra_options": {"ClipMode": "soft", "ReplaceClip6Relu": True}}, r"ReplaceClip6Relu\) removes the Clips"),
        ({"extra_options": {"CalibDataSize": 0}}, r"CalibDataSize\) must be at least 1"),
        ({"extra_options": {"CalibMovingAverageConstant": 2.0}}, "CalibMovingAverageConstant"),
        ({"extra_options": {"CalibMovingAverageConstant": "a"}}, "must be of type float"),
        ({"nodes_to_exclude": "conv1"}, "'nodes_to_exclude' must be a list of names"),
        ({"op_types_to_quantize": [1]}, "'op_types_to_quantize' must be a list of names"),
        ({"subgraphs_to_exclude": [["a", "b", "c"]]}, "must be a list of pairs"),
        ({"calibrate_method": "MinMax"}, "'calibrate_method' must be one of CalibrationMethod.MinMax"),
        ({"extra_options": {"MinMSEModePof2Scale": "Median"}}, "'MinMSEModePof2Scale' must be one of 'All'"),
        ({"extra_options": {"MinMSEModePof2Scale": "All", "MinMSEMode": "MostCommon"}}, "'MostCommon' contradicts"),
        ({"extra_options": {"MinMSEModePof2Scale": "MostCommon", "MinMSEMode": "All"}}, "'All' contradicts"),
        ({"extra_options": {"Percentile": 0.5}}, r"Percentile\) must be in"),
        ({"extra_options": {"NumBins": 1}}, r"NumBins\) must be from 2 to 1048576"),
        ({"extra_options": {"NumBins": 2**63}}, r"NumBins\) must be from 2 to 1048576"),
        ({"extra_options": {"NonOverflowRounding": "down"}}, "must be one of 'up', 'nearest'"),
        ({"activation_type": QuantType.QInt4}, "not available yet.*QuantType.QUInt8"),
        ({"weight_type": QuantType.QInt16}, "not available yet.*QuantType.QInt8"),
        ({"quant_format": QuantFormat.QOperator}, "QOperator is not available.*QuantFormat.QDQ"),
        ({"quant_format": None}, "'quant_format' must be one of"),
        ({"include_fast_ft": True}, "'include_fast_ft' is not available yet.*WeightRounding"),
        ({"use_dynamic_quant": 0}, "'use_dynamic_quant' is not available yet"),
        ({"input_nodes": ["a"]}, "'input_nodes' is not available yet"),
        ({"input_nodes": np.array(["a", "b"])}, "'input_nodes' is not available yet"),
        ({"extra_options": {"SmoothAlpha": np.array([0.5, 0.6])}}, "'SmoothAlpha' is not available yet"),
        ({"extra_options": {"FastFinetune": {"NumIterations": 10}}}, "'FastFinetune' is not available yet"),
        ({"extra_options": {"QuantizeBias": False}}, "'QuantizeBias' is not available yet.*docs/options.md"),
        ({"extra_options": {"CLETotalLayerDiffThreshold": 0.1}}, "not available yet"),
        ({**NPU, "calibrate_method": CalibrationMethod.MinMax}, "enable_npu_cnn=True needs power-of-two scales"),
        ({**NPU, "per_channel": True}, "per_channel must be False"),
        ({**NPU, "weight_type": QuantType.QUInt8}, "needs weight_type=QuantType.QInt8"),
        ({**NPU, "activation_type": QuantType.QInt16}, "needs 8-bit activations"),
        ({**NPU, "extra_options": {"ActivationSymmetric": False}}, "needs ActivationSymmetric=True"),
        ({**NPU, "extra_options": {"WeightSymmetric": False}}, "needs WeightSymmetric=True"),
        ({**NPU, "extra_options": {"CalibMovingAverage": True}}, "works with CalibrationMethod.MinMax only"),
        ({**NPU, "extra_options": {"CalibTensorRangeSymmetric": False}}, "contradicts a PowerOfTwoMethod"),
        ({"extra_options": {"Int32Bias": False}}, "need power-of-two scales"),
        ({"extra_options": {"Int16Bias": True}}, "need power-of-two scales"),
    ],
)
def test_refusals_are_one_line_and_say_what_to_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        QuantizationConfig(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [o for o in EXTRA_OPTIONS.values() if o.state == "planned"], ids=lambda o: o.name)
def test_planned_features_refuse_everything_else(option: Any) -> None:
    for value in ("something", 12345, ["x"]):
        with pytest.raises(OptionError, match=f"'{option.name}' is not available yet"):
            extra(option.name, value)


@pytest.mark.parametrize("wrong", [None, "XINT8", {}, Recipe()])
def test_config_takes_a_quantization_config_only(wrong: Any) -> None:
    with pytest.raises(OptionError, match="must be a QuantizationConfig"):
        Config(global_quant_config=wrong)
    with pytest.raises(OptionError, match="ModelQuantizer takes a Config"):
        ModelQuantizer(wrong)
