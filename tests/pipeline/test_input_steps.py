"""Power-of-two steps of inputs are chosen by what rounding them does to the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from equiquant import quantize
from equiquant.numerics.statistics.tail import FEW_VALUES
from tests.canonical.support import proto, weights

Array = npt.NDArray[Any]
FLOOR, BODY = -200.0, 1.0


def spectra(samples: int = 24, *, silence: float = FLOOR, positions: int = 24) -> Array:
    """Features of which a few lie far below the rest, as the logarithm of silence does."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, BODY, size=(samples, 1, positions, positions))
    x[rng.random(x.shape) < 0.001] = silence
    return x.astype(np.float32)


def saturating() -> onnx.ModelProto:
    """Reads its input through a Sigmoid, which nothing beyond ±10 makes a difference to."""
    nodes = "c = Conv(x, w1) s = Sigmoid(c) d = Conv(s, w2) y = GlobalAveragePool(d)"
    given = {**weights(w2=(8, 6, 3, 3)), "w1": np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(6, 1, 1, 1)}
    return proto(nodes, "float[N,1,A,B] x", "float[] y", given)


def linear() -> onnx.ModelProto:
    nodes = "c = Conv(x, w1) y = Conv(c, w2)"
    given = {**weights(w2=(8, 6, 1, 1)), "w1": np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(6, 1, 1, 1)}
    return proto(nodes, "float[N,1,A,B] x", "float[] y", given)


def of_input(model: onnx.ModelProto, data: Array | None, **options: Any) -> tuple[float, dict[str, Any]]:
    options = {"preset": "xint8", "bias_correction": False, "weight_rounding": "nearest", **options}
    report = quantize(model, data=data, **options).report.to_dict()
    return next(t["scale"] for t in report["tensors"] if t["name"] == "x"), report


def told(report: dict[str, Any]) -> list[str]:
    return [d["reason"] for d in report["decisions"] if d["rule"] == "input_step"]


def test_what_makes_no_difference_is_cut_off() -> None:
    scale, report = of_input(saturating(), spectra())
    assert scale <= 0.25  # of the 2 that would hold the silence
    assert f"with a range to ±{127 * scale:.5g}, which measured best, and" in told(report)[0]
    row = next(row for row in report["equalization"]["noise"] if row["name"] == "x")
    assert row["before"] == row["global+powers"] > 50.0  # measured: the same under all plans


def test_what_makes_a_difference_is_held() -> None:
    scale, report = of_input(linear(), spectra())
    assert (scale, told(report)) == (2.0, [])


@pytest.mark.parametrize(
    "options", [{"cle": False}, {"cle_method": "pairwise"}, {"calibration": "nonoverflow"}, {"preset": "a8w8"}]
)
def test_ranges_asked_for_are_as_asked(options: dict[str, Any]) -> None:
    assert not told(of_input(saturating(), spectra(), **options)[1])


@pytest.mark.filterwarnings("ignore:No calibration data was given")
def test_made_up_inputs_tell_nothing() -> None:
    given = weights(w1=(6, 3, 1, 1), w2=(8, 6, 1, 1))
    model = proto("c = Conv(x, w1) y = Conv(c, w2)", "float[N,3,9,9] x", "float[] y", given)
    assert not told(of_input(model, None)[1])


def test_few_values_are_left_to_the_model_of_noise_which_has_room_for_others() -> None:
    data = spectra(4, positions=7, silence=FLOOR)
    data[0, 0, 0, 0] = FLOOR
    assert data.size < FEW_VALUES
    assert not told(of_input(saturating(), data)[1])


@pytest.mark.filterwarnings("ignore:The first 4 calibration samples are constant")
def test_without_signal_nothing_is_measured() -> None:
    scale, report = of_input(saturating(), np.zeros((24, 1, 24, 24), np.float32))
    assert scale > 0
    assert not told(report)


@pytest.mark.parametrize("loud", range(0, 24, 5))
def test_one_loud_sample_is_held_whichever_it_is(loud: int) -> None:
    data = np.random.default_rng(1).normal(size=(24, 1, 24, 24)).astype(np.float32)
    data[loud] *= 16
    scale, report = of_input(linear(), data)
    assert (scale >= 0.25, told(report)) == (True, [])


def test_rows_that_fill_up_a_batch_are_left_out() -> None:
    model = onnx.ModelProto.FromString(saturating().SerializeToString())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    scale, _ = of_input(model, spectra(38))
    assert scale <= 0.25


def test_biases_do_not_make_up_for_what_is_cut_off() -> None:
    nodes = "c = Conv(x, w1) r = Relu(c) d = Conv(r, w2) y = GlobalAveragePool(d)"
    given = {**weights(w2=(8, 6, 3, 3)), "w1": np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(6, 1, 1, 1)}
    model = proto(nodes, "float[N,1,A,B] x", "float[] y", given)
    for options in ({}, {"weight_rounding": "nearest"}, {"keep_float": 1}):
        _, report = of_input(model, spectra(), **{"bias_correction": True, "weight_rounding": "auto", **options})
        assert told(report)
        trials = {t["method"]: t["sqnr_db"] for t in report["equalization"]["trials"]}
        assert trials["global+powers"] > 30.0, options
