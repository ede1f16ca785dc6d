"""Without data: a network with BatchNormalizations says what its inputs were like; another is quantized with care."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant import equalize, preset, quantize
from equiquant.calibrate import load_stats, open_samples
from equiquant.calibrate.made_up.synthetic import SYNTHETIC_SAMPLES
from equiquant.io import input_specs
from equiquant.pipeline.opening import known_inputs
from tests.backward.support import noise, parse
from tests.calibrate.support import trained

pytestmark = pytest.mark.filterwarnings("ignore:No calibration data")


def rules(told: dict[str, Any]) -> set[str]:
    return {decision["rule"] for decision in told["decisions"]}


def test_fitted_inputs_are_trusted_like_data() -> None:
    told = quantize(trained(), preset="a8w8").report.to_dict()
    assert "distill" in [stage["name"] for stage in told["stages"]]
    (decision,) = (d for d in told["decisions"] if d["rule"] == "distill")
    assert decision["applied"]
    assert f"{SYNTHETIC_SAMPLES} made-up inputs" in decision["reason"]
    assert "no_data" not in rules(told)
    assert told["recipe"]["calibration"] == "noise"  # ranges may clip
    assert told["refinement"]["trials"][-1]["name"] == "bias correction and rounding"
    assert any("No calibration data" in warning for warning in told["warnings"])
    assert told["quality"]["synthetic"]


def test_guessed_inputs_are_not() -> None:
    model = parse(
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) { a = Conv (x, w)  r = Relu (a)  y = Conv (r, v) }",
        w=noise(4, 3, 1, 1),
        v=noise(4, 4, 1, 1),
    )
    told = quantize(model, preset="a8w8").report.to_dict()
    assert {"no_data", "weight_rounding"} <= rules(told)
    assert "distill" not in rules(told)
    assert told["recipe"]["calibration"] == "minmax"


def test_a_statistics_file_does_not_tell_how_close_they_came(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        told = quantize(
            trained(), tmp_path / name, preset="a8w8", calibration_cache=tmp_path / "stats"
        ).report.to_dict()
        assert told["recipe"]["calibration"] == "minmax"
    assert "distill" not in rules(told)  # nothing needs inputs any more
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_beside_a_file_of_samples_they_are_like_those(tmp_path: Path) -> None:
    x = np.clip(500 + 60 * np.concatenate([noise(1, 3, 16, 16, seed=k) for k in range(8)]), 400, 600)
    quantize(trained(), data=x, preset="a8w8", calibration_cache=tmp_path / "stats")
    specs = input_specs(trained())
    known = known_inputs(specs, load_stats(tmp_path / "stats"))
    with open_samples(None, specs, preset("a8w8"), trained(), known=known) as stream:
        made_up = np.concatenate([feed["x"] for feed in stream])
    assert abs(made_up.mean() - x.mean()) < 5
    assert made_up.std() == pytest.approx(x.std(), rel=0.1)
    assert (made_up.min(), made_up.max()) == (x.min(), x.max())
    quality = quantize(trained(), preset="a8w8", calibration_cache=tmp_path / "stats").report.quality
    assert quality is not None
    assert quality["synthetic"]
    assert quality["outputs"][0]["sqnr_db"] > 15


@pytest.mark.filterwarnings("ignore:As onnxruntime runs the model")  # tests/test_kernels.py is about that
def test_real_data_and_stored_weights_need_none() -> None:
    x = np.concatenate([noise(1, 3, 16, 16, seed=k) for k in range(8)])
    assert "distill" not in rules(quantize(trained(), data=x, preset="a8w8").report.to_dict())
    stored = dict.fromkeys(("gamma", "var"), np.ones(32, np.float32)) | {"beta": noise(32), "mean": noise(32, seed=1)}
    text = (
        "g (float[N,64] x) => (float[N,32] y) { a = MatMul (x, w)  y = BatchNormalization (a, gamma, beta, mean, var) }"
    )
    assert "distill" not in rules(quantize(parse(text, 17, w=noise(64, 32), **stored), preset="w8").report.to_dict())


def test_equalization_alone_is_fitted_too() -> None:
    told = equalize(trained()).report.to_dict()
    assert "distill" in rules(told)
    assert told["equalization"]["equivalence_error"] <= 1e-5


def test_the_documented_samples_limit_holds() -> None:
    told = quantize(trained(), preset="xint8", calibration_samples=9).report.to_dict()
    (decision,) = (d for d in told["decisions"] if d["rule"] == "distill")
    assert decision["reason"].startswith("9 made-up inputs")
