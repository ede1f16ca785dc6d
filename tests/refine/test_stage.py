"""The stage in a run: options, do no harm on samples held back, the report."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from equiquant import QuantizationConfig, quantize
from equiquant.errors import OptionError
from equiquant.pipeline.measuring.splitting import held_back
from equiquant.refine import Refined
from tests.canonical.support import proto, weights
from tests.refine.test_refine import chain, images

STAGE = importlib.import_module("equiquant.pipeline.refinement.refining")
SETTINGS: dict[str, Any] = {"preset": "a8w8", "cle": False, "calibration": "minmax"}


@pytest.fixture(autouse=True)
def no_hints() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*kernels for uint8 times int8.*")
        yield


def data() -> np.ndarray:
    return np.concatenate([feed["x"] for feed in images(12)])


def test_the_default_corrects_and_rounds_and_the_report_says_what_each_gave() -> None:
    report = quantize(chain(), data=data(), **SETTINGS).report
    section = report.to_dict()["refinement"]
    assert [t["name"] for t in section["trials"]] == ["none", "bias correction", "bias correction and rounding"]
    assert section["kept"] == "bias correction and rounding"
    assert section["trials"][2]["sqnr_db"] > section["trials"][0]["sqnr_db"]
    assert (section["layers"], section["fitted"], section["held"]) == (3, 9, 3)
    page = report.to_html()
    assert "Refinement" in page
    assert "bias correction and rounding" in page
    assert "refine" in [cost.name for cost in report.stages]


@pytest.mark.parametrize(
    ("options", "names", "told"),
    [
        ({"bias_correction": False, "weight_rounding": "nearest"}, [], None),
        ({"weight_rounding": "nearest"}, ["none", "bias correction"], "Biases of"),
        ({"bias_correction": False}, ["none", "rounding"], "Weights of"),
        ({}, ["none", "bias correction", "bias correction and rounding"], "Weights and biases of"),
    ],
)
def test_options_choose_what_is_tried(options: dict[str, Any], names: list[str], told: str | None) -> None:
    report = quantize(chain(), data=data(), **SETTINGS, **options).report
    assert [t["name"] for t in report.refinement.get("trials", [])] == names
    assert (f"{told} 3 layers were fitted to 9 feeds and measured on 3 others." in report.to_html()) is bool(told)


def test_a_layer_of_too_many_inputs_goes_to_the_nearest_step_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equiquant.refine.layers.LARGEST", 1)
    report = quantize(chain(), data=data(), weight_rounding="optimal", **SETTINGS).report
    assert [t["name"] for t in report.refinement["trials"]] == ["none", "bias correction"]
    assert ["too many inputs" in d.reason for d in report.decisions if d.rule == "weight_rounding"] == [True] * 3
    monkeypatch.setattr("equiquant.refine.layers.LARGEST", 30)
    report = quantize(chain(), data=data(), weight_rounding="optimal", **SETTINGS).report
    assert len(report.refinement["trials"]) == 3
    assert ["too many inputs" in d.reason for d in report.decisions if d.rule == "weight_rounding"] == [True]


def test_only_what_has_a_bias_is_corrected() -> None:
    nodes = "a = MatMul(x, w) b = Relu(a) y = MatMul(b, v)"
    model = proto(nodes, "float[N,6,8] x", "float[] y", weights(w=(8, 8), v=(8, 4)))
    inputs = np.random.default_rng(0).standard_normal((12, 6, 8), np.float32)
    section = quantize(model, data=inputs, **SETTINGS).report.refinement
    assert [t["name"] for t in section["trials"]] == ["none", "rounding"]


def test_biases_that_are_kept_are_corrected_on_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STAGE, "GLANCE_FEEDS", 4)
    monkeypatch.setattr(STAGE, "EQUAL_DB", 0.0)
    original = STAGE.refine

    def without_gain(model: ir.Model, plan: Any, target: Any, feeds: Any, wanted: Any, *rest: Any) -> Refined:
        found: Refined = original(model, plan, target, feeds, wanted, *rest)
        return Refined(model, plan, found.samples) if wanted.round_weights else found

    monkeypatch.setattr(STAGE, "refine", without_gain)
    section = quantize(chain(), data=data(), **SETTINGS).report.refinement
    assert (section["kept"], section["fitted"]) == ("bias correction", 9)


@pytest.mark.parametrize("preset", ["a8w8_per_channel", "a8w8", "xint8"])
@pytest.mark.parametrize(
    ("gemm", "bias"),
    [("Gemm", (1, 5)), ("Gemm", (6, 1)), ("Gemm<alpha = -0.5>", (5,)), ("Gemm<alpha = -0.5>", None)],
)
def test_odd_gemms_are_refined(preset: str, gemm: str, bias: tuple[int, ...] | None) -> None:
    operands, shapes = ("h, v, c", {"c": bias}) if bias else ("h, v", {})
    columns = 6 if bias == (6, 1) else 5
    nodes = f"a = Gemm(x, w, b) h = Relu(a) y = {gemm}({operands})"
    model = proto(nodes, "float[6,8] x", "float[] y", weights(w=(8, 8), b=(8,), v=(8, columns), **shapes))
    inputs = np.random.default_rng(0).standard_normal((12, 6, 8), np.float32)
    result = quantize(model, data=inputs, preset=preset)
    assert all(t["sqnr_db"] > 25 for t in result.report.refinement["trials"])
    scales = [numpy_helper.to_array(x) for x in result.model.graph.initializer if x.name.endswith("scale")]
    assert all((scale > 0).all() for scale in scales)


def test_harm_is_refused_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = quantize(chain(), data=data(), bias_correction=False, weight_rounding="nearest", **SETTINGS)

    def harmful(model: ir.Model, plan: Any, *_: Any) -> Refined:
        broken = model.clone()
        weight = next(iter(broken.graph.initializers.values()))
        assert weight.const_value is not None
        weight.const_value = ir.Tensor(weight.const_value.numpy() * np.float32(0.9), name=weight.name)
        return Refined(broken, plan, 1)

    monkeypatch.setattr(STAGE, "refine", harmful)
    result = quantize(chain(), data=data(), **SETTINGS)
    assert result.report.refinement["kept"] == "none"
    assert [d.where for d in result.report.decisions if d.rule == "do_no_harm" and d.stage == "refine"]
    assert list(result.model.graph.initializer) == list(plain.model.graph.initializer)


def test_what_is_held_back_is_never_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    original = STAGE.refine

    def spy(model: ir.Model, plan: Any, target: Any, feeds: Any, *rest: Any) -> Refined:
        seen.extend(feed["x"] for feed in feeds)
        result: Refined = original(model, plan, target, feeds, *rest)
        return result

    monkeypatch.setattr(STAGE, "refine", spy)
    quantize(chain(), data=data(), **SETTINGS)
    held = held_back(len(data()))
    assert {x.tobytes() for x in seen} == {x[None].tobytes() for i, x in enumerate(data()) if i not in held}


@pytest.mark.parametrize(("count", "fitted", "held"), [(1, 1, 1), (2, 1, 1), (4, 3, 1), (8, 6, 2)])
def test_few_samples_are_split_too(count: int, fitted: int, held: int) -> None:
    section = quantize(chain(), data=data()[:count], **SETTINGS).report.refinement
    assert (section["fitted"], section["held"]) == (fitted, held)


def test_biases_are_not_corrected_for_a_single_sample() -> None:
    one, batch = (quantize(chain(), data=[data()[:count]], **SETTINGS).report for count in (1, 4))
    assert [t["name"] for t in one.refinement["trials"]] == ["none", "rounding"]
    assert ("no_data", False) in [(d.rule, d.applied) for d in one.decisions if "biases" in d.reason]
    assert not one.recipe.bias_correction
    assert [t["name"] for t in batch.refinement["trials"]] == [
        "none",
        "bias correction",
        "bias correction and rounding",
    ]


def test_auto_leaves_large_networks_and_optimal_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STAGE, "AUTO_COST", 1.0)
    report = quantize(chain(), data=data(), **SETTINGS).report
    assert [t["name"] for t in report.refinement["trials"]] == ["none", "bias correction"]
    (decision,) = [d for d in report.decisions if d.rule == "weight_rounding"]
    assert "WeightRounding='optimal'" in decision.reason
    forced = quantize(chain(), data=data(), weight_rounding="optimal", **SETTINGS).report.refinement
    assert len(forced["trials"]) == 3


def test_documented_names() -> None:
    recipe = QuantizationConfig(extra_options={"BiasCorrection": False, "WeightRounding": "nearest"}).to_recipe()
    assert (recipe.bias_correction, recipe.weight_rounding) == (False, "nearest")
    assert QuantizationConfig().to_recipe().bias_correction
    with pytest.raises(OptionError, match="WeightRounding"):
        QuantizationConfig(extra_options={"WeightRounding": "best"})


def test_the_command_line_takes_them_and_shows_the_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from equiquant.cli import main

    model, samples = tmp_path / "model.onnx", tmp_path / "data.npy"
    ir.save(chain(), model)
    np.save(samples, data())
    command = ["quantize", str(model), "-o", str(tmp_path / "out.onnx"), "--data", str(samples), "--no-cle"]
    assert main([*command, "--weight-rounding", "nearest"]) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.startswith("Refined"))
    assert "bias correction" in line
    assert "rounding" not in line
    assert main([*command, "--no-bias-correction", "--weight-rounding", "nearest"]) == 0
    assert "Refined" not in capsys.readouterr().out


def test_rounding_sees_enough_samples_however_large_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STAGE, "affordable_feeds", lambda *_: 1)
    many = np.concatenate([feed["x"] for feed in images(40)])
    section = quantize(chain(), data=many, **SETTINGS).report.to_dict()["refinement"]
    assert (section["fitted"], section["held"]) == (STAGE.LEAST_FITTED, STAGE.LEAST_HELD)
    nearest = quantize(chain(), data=many, weight_rounding="nearest", **SETTINGS).report.to_dict()["refinement"]
    assert (nearest["fitted"], nearest["held"]) == (1, 1)
