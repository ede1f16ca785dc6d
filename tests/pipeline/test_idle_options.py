"""Options that do nothing are named, with what would give them an effect."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

from equiquant import ModelQuantizer, QuantizationConfig, equalize, quantize
from equiquant.config import Config
from equiquant.pipeline.idle_options import GROUPS, idle_options
from equiquant.recipe import PRESETS, Recipe, preset
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)


def _model() -> Any:
    return proto(
        "a = Conv(x, w1) r = Relu(a) y = Conv(r, w2)",
        "float[N,3,6,6] x",
        "float[] y",
        weights(w1=(4, 3, 1, 1), w2=(4, 4, 1, 1)),
    )


def test_every_field_named_is_one_of_the_recipe() -> None:
    fields = set(Recipe.__dataclass_fields__)
    assert all(set(group.fields) <= fields and group.reason for group in GROUPS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_set_nothing_in_vain(name: str) -> None:
    assert not idle_options(preset(name))


@pytest.mark.parametrize(
    ("recipe", "idle"),
    [
        (preset("xint8", block_size=64), {"block_size"}),
        (preset("w4", block_size=64), set()),
        (preset("a8w8", npu_limits=False, dpu_clip=True), {"npu_limits", "dpu_clip"}),
        (preset("xint8", simulate_dpu=False, dpu_sigmoid=False), {"dpu_sigmoid"}),
        (preset("xint8", dpu_sigmoid=False), set()),
        (preset("xint8", npu_limits=False, limits_off=("AlignPool",)), {"limits_off"}),
        (preset("xint8", limits_off=("AlignSlice",)), {"limits_off"}),
        (preset("xint8", limits_off=("AlignSlice", "AlignPool")), set()),
        (preset("a8w8", separate=("PRelu",)), {"separate"}),
        (preset("a8w8", separate=("Relu", "PRelu")), set()),
        (preset("xint8", separate=("PRelu",)), set()),
        (preset("xint8", symmetric_ranges=True), {"symmetric_ranges"}),
        (preset("a8w8", symmetric_ranges=True), set()),
        (preset("xint8", cle=False, cle_steps=-1, replace_clip6_relu=True), {"cle_steps", "replace_clip6_relu"}),
        (preset("xint8", cle=False, cle_accept="always"), {"cle_accept"}),
        (preset("a8w8", cle=False, cle_accept="always"), set()),
        (preset("a8w8", cle_method="global", cle_steps=9, cle_append_bias=False), {"cle_steps", "cle_append_bias"}),
        (preset("a8w8", cle_method="pairwise", cle_steps=9, cle_append_bias=False), set()),
        (preset("a8w8", cle_steps=9, cle_append_bias=False), set()),
        (preset("a8w8", calibration="minmax", exact_histograms=True), {"exact_histograms"}),
        (preset("xint8", calibration="nonoverflow", exact_histograms=True), {"exact_histograms"}),
        (preset("a8w8", exact_histograms=True), set()),
        (preset("w4", exact_histograms=True), {"exact_histograms"}),
        (preset("a8w8", percentile=99.9), {"percentile"}),
        (preset("a8w8", percentile=99.9, histogram_bins=512, calibration="percentile"), set()),
        (preset("a8w8", histogram_bins=512, calibration="entropy"), set()),
        (preset("a8w8", histogram_bins=512), {"histogram_bins"}),
        (preset("w8", calibration="mse", per_channel=True), {"calibration", "per_channel"}),
        (preset("w4", moving_average=True, avoid_overflow=False), {"moving_average", "avoid_overflow"}),
        (preset("w4", calibration_memory=10), {"calibration_memory"}),
        (preset("a8w8", unsigned_relu=True), {"unsigned_relu"}),
        (preset("a8w8", unsigned_relu=True, activation_symmetric=True), set()),
        (preset("xint8", unsigned_relu=True), set()),
        (preset("xint8", minmse_mode="most_common"), set()),
        (preset("xint8", calibration="nonoverflow", minmse_mode="most_common"), {"minmse_mode"}),
        (preset("xint8", nonoverflow_rounding="nearest"), {"nonoverflow_rounding"}),
        (preset("a8w8", moving_average_constant=0.1), {"moving_average_constant"}),
        (preset("a8w8", calibration="minmax", moving_average=True, moving_average_constant=0.1), set()),
    ],
)
def test_what_is_without_effect_is_known(recipe: Recipe, idle: set[str]) -> None:
    assert set(idle_options(recipe)) == idle


def test_a_file_of_statistics_always_holds_histograms() -> None:
    assert not idle_options(preset("a8w8", calibration="minmax", exact_histograms=True), stored=True)


def test_the_global_solver_begins_where_it_always_does() -> None:
    x, model = DATA * np.float32(3), _model()
    options: dict[str, Any] = {"preset": "a8w8", "cle_method": "global", "cle_accept": "always"}
    plain = quantize(model, data=x, **options).report.to_dict()["equalization"]
    said = "cle_steps has no effect: only the pairwise solver reads it, .* cle_append_bias has no effect: only the"
    with pytest.warns(UserWarning, match=said):
        other = quantize(model, data=x, cle_steps=9, cle_append_bias=False, **options).report.to_dict()["equalization"]
    assert plain == other


def test_equalizing_alone_says_so_too() -> None:
    with pytest.warns(UserWarning, match="cle_steps has no effect"):
        equalize(_model(), data=DATA, steps=9)


def test_a_run_says_so_and_does_its_work() -> None:
    with pytest.warns(UserWarning, match="block_size has no effect: only the presets w4 and w8"):
        result = quantize(_model(), data=DATA, preset="a8w8", block_size=64)
    assert any("block_size" in warning for warning in result.report.warnings)


def test_documented_options_that_contradict_nothing_are_silent(tmp_path: Any) -> None:
    onnx.save(_model(), tmp_path / "m.onnx")
    config = QuantizationConfig(include_cle=True, extra_options={"CLESteps": 2, "ReplaceClip6Relu": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ModelQuantizer(Config(global_quant_config=config)).quantize_model(
            tmp_path / "m.onnx", tmp_path / "q.onnx", [{"x": DATA[:2]}]
        )
