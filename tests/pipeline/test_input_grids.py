"""Inputs on a grid of 8 bits are kept as they are, where the solver chooses ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from equiquant import quantize
from equiquant.pipeline.measuring.splitting import alternate
from tests.canonical.support import proto, weights

STEP = 1 / 128


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    nodes = "a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2)"
    return proto(nodes, "float[N,3,12,12] x", "float[] y", weights(w1=(16, 3, 1, 1), b1=(16,), w2=(8, 16, 1, 1)))


def photos(first: int = 0, last: int = 256) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(first, last, size=(16, 3, 12, 12))
    return ((pixels - 127) * STEP).astype(np.float32)


def of_input(model: onnx.ModelProto, data: np.ndarray | None, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    report = quantize(model, data=data, weight_rounding="nearest", **options).report.to_dict()
    return next(t for t in report["tensors"] if t["name"] == "x"), report


@pytest.mark.parametrize("preset", ["a8w8", "a8w8_per_channel"])
@pytest.mark.parametrize("method", ["auto", "pairwise"])
def test_pixels_are_kept(model: onnx.ModelProto, preset: str, method: str) -> None:
    found, report = of_input(model, photos(), preset=preset, cle_method=method)
    assert found["scale"] == pytest.approx(STEP, rel=1e-6)
    assert found["zero_point"] == 127
    assert [d["where"] for d in report["decisions"] if d["rule"] == "input_grid"] == ["x"]
    assert "x" not in [row["name"] for row in report["equalization"].get("noise", ())]


@pytest.mark.parametrize(("value", "end"), [(60.0, 120.0), (60.4, None)])
def test_samples_that_scales_are_not_chosen_on_count_too(
    model: onnx.ModelProto, value: float, end: float | None
) -> None:
    data = photos(127, 150)
    data[alternate(16)[1][0], 0, 0, 0] = value * STEP
    found, report = of_input(model, data, preset="a8w8")
    assert bool([d for d in report["decisions"] if d["rule"] == "input_grid"]) == (end is not None)
    if end is not None:  # whole steps, and room beyond the largest
        assert STEP / found["scale"] == pytest.approx(round(STEP / found["scale"]), rel=1e-6)
        assert found["scale"] * (255 - found["zero_point"]) > end * STEP


def test_symmetric_ranges_have_no_step_for_them(model: onnx.ModelProto) -> None:
    _, report = of_input(model, photos(), preset="a8w8", symmetric_ranges=True)
    assert not [d for d in report["decisions"] if d["rule"] == "input_grid"]


def test_symmetric_activations_keep_them_too(model: onnx.ModelProto) -> None:
    found, _ = of_input(model, photos(last=255), preset="a8w8", activation_symmetric=True)
    assert found["scale"] == pytest.approx(STEP, rel=1e-6)
    found, report = of_input(model, photos(), preset="a8w8", activation_symmetric=True)  # 128 of 127 steps
    assert found["scale"] != pytest.approx(STEP, rel=1e-4)
    assert not [d for d in report["decisions"] if d["rule"] == "input_grid"]


@pytest.mark.parametrize("options", [{"calibration": "minmax"}, {"calibration": "percentile"}, {"preset": "xint8"}])
def test_what_is_asked_for_by_name_stays(model: onnx.ModelProto, options: dict[str, Any]) -> None:
    _, report = of_input(model, photos(), **({"preset": "a8w8"} | options))
    assert not [d for d in report["decisions"] if d["rule"] == "input_grid"]


def test_other_values_are_not_taken_for_pixels(model: onnx.ModelProto) -> None:
    data = np.random.default_rng(0).laplace(size=(16, 3, 12, 12)).astype(np.float32)
    _, report = of_input(model, data, preset="a8w8")
    assert not [d for d in report["decisions"] if d["rule"] == "input_grid"]


def test_a_statistics_file_gives_the_same_again(model: onnx.ModelProto, tmp_path: Any) -> None:
    file = tmp_path / "stats.npz"
    options: dict[str, Any] = {"preset": "a8w8", "calibration_cache": file, "bias_correction": False}
    first, _ = of_input(model, photos(), **options)
    again, _ = of_input(model, photos(), **options)
    assert first["scale"] == again["scale"] == pytest.approx(STEP, rel=1e-6)
