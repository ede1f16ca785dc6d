"""A result of which little is left is told with what is worth trying."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

from equiquant import quantize
from equiquant.pipeline.measuring.splitting import held_back
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(0).standard_normal((16, 3, 6, 6)).astype(np.float32)
PLAIN: dict[str, Any] = {"bias_correction": False, "weight_rounding": "nearest"}


def uneven(spread: float, nodes: str = "y = Conv(x, w)") -> onnx.ModelProto:
    """Return a layer one of whose weights is so many times as large as the others, and its input as small."""
    parameters = weights(w=(4, 3, 1, 1)) | {"low": np.zeros((), np.float32), "high": np.array(6, np.float32)}
    parameters["w"][0] *= spread
    used = {name: array for name, array in parameters.items() if name in nodes}
    return proto(nodes, "float[N,3,6,6] x", "float[] y", used)


def told(model: onnx.ModelProto, data: Any = DATA, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantize(model, None, data=data, **PLAIN | options)
    texts = [str(w.message) for w in caught]
    heard = ("of what varies", "of the median sample", "above 0")
    return [text for text in texts if text.startswith("Only") or any(what in text for what in heard)]


def split(spread: float) -> onnx.ModelProto:
    """Return a network whose second output is made of what the first leaves no room for."""
    parameters = weights(w=(4, 3, 1, 1)) | {"ends": np.array([1, 3], np.int64)}
    parameters["w"][0] *= spread
    return proto(
        "c = Conv(x, w) y, z = Split<axis = 1>(c, ends)", "float[N,3,6,6] x", "float[] y, float[] z", parameters
    )


def test_a_good_result_needs_no_advice() -> None:
    assert not told(split(1.0), preset="a8w8")


def test_a_poor_result_is_told_with_what_may_help() -> None:
    (text,) = told(split(1e4), preset="a16w8")
    assert "output 'z' are left" in text
    assert "per_channel=True" in text
    assert "of the noise is predicted to come from weights" in text
    assert "keep_float=N" in text
    assert "preset='auto'" in text
    assert "real samples" not in text
    assert "ReLU6" not in text


def test_what_a_calibration_cuts_is_not_put_down_to_weights() -> None:
    nodes = "c = Conv(x, w) r = Relu(c) y = Conv(r, v)"
    model = proto(nodes, "float[N,3,6,6] x", "float[] y", weights(w=(4, 3, 1, 1), v=(4, 4, 1, 1)))
    drifting = DATA * np.geomspace(1, 1e3, len(DATA), dtype=np.float32)[:, None, None, None]
    for data, options, better in (
        (DATA, {"calibration": "percentile", "percentile": 60.0}, "calibration='noise' or 'minmax'"),
        (drifting, {"calibration": "minmax", "moving_average": True}, "moving_average=False"),
    ):
        (text,) = told(model, data, preset="a16w8", **options)
        assert f"Worth trying: {better}, for" in text
        assert "predicted to come from" not in text
    (text,) = told(split(1e4), preset="a16w8", calibration="percentile", percentile=100.0)
    assert "calibration=" not in text
    assert "predicted to come from weights" in text


@pytest.mark.parametrize(("ending", "samples", "count"), [("", 32, 1), ("", 16, 0), (" z = Sigmoid(y)", 32, 0)])
def test_a_mean_does_not_hide_that_little_is_left_of_the_rest(ending: str, samples: int, count: int) -> None:
    """A score of 4 ± 0.5, the sum of two that cancel; 16 samples hold back 4, and a Sigmoid is sure of itself."""
    small, large = np.array([0.3, -0.2, 0.3]), np.array([36.0, 20.0, -28.0])
    parameters = {"w": np.stack([large + small, small - large], axis=1), "v": np.ones((2, 1)), "mean": np.array([4.0])}
    parameters = {name: array.astype(np.float32) for name, array in parameters.items()}
    data = np.random.default_rng(0).standard_normal((samples, 3)).astype(np.float32)
    nodes = f"h = MatMul(x, w) m = MatMul(h, v) y = Add(m, mean){ending}"
    model = proto(nodes, "float[N,3] x", "float[] z" if ending else "float[] y", parameters)
    texts = told(model, data, preset="xint8")
    assert len(texts) == count
    for text in texts:
        assert "dB of the output 'y' are left, but most of it is the same for every sample; of what varies only" in text


def test_which_of_equals_is_largest_is_no_noise() -> None:
    nodes = "c = Conv(x, w) y = Abs(c) z = ArgMax<axis = 1>(c)"
    model = proto(nodes, "float[N,3,6,6] x", "float[] y, int64[] z", {"w": np.ones((40, 3, 1, 1), np.float32)})
    assert not told(model, preset="a8w8")


def test_what_is_in_use_already_is_not_proposed() -> None:
    (text,) = told(split(1e6), preset="a8w8_per_channel")
    assert "per_channel=True" not in text


def test_where_no_noise_was_predicted_equalization_and_more_scales_are_proposed() -> None:
    (text,) = told(split(1e4), preset="a16w8", cle=False, calibration="minmax")
    assert "Worth trying: cle=True" in text
    assert "per_channel=True, one scale a weight's channel; " in text
    (text,) = told(split(1e4), preset="a16w8")
    assert "cle=True" not in text


def test_made_up_inputs_are_named_first() -> None:
    texts = told(split(1e4), None, preset="a8w8")
    assert "left on made-up inputs, which says little of real ones" in texts[0]
    assert "Worth trying: real samples" in texts[0]


def test_the_npu_has_no_scales_per_channel() -> None:
    (text,) = told(split(1e4), preset="xint8")
    assert "per_channel" not in text


def test_what_replacing_relu6_cost_is_the_first_suspect() -> None:
    nodes = "c = Conv(x, w) y = Clip(c, low, high)"
    (text,) = told(uneven(1e3, nodes), preset="xint8", replace_clip6_relu=True)
    assert "Worth trying: replace_clip6_relu=False, for replacing ReLU6 alone leaves" in text


def test_a_limit_that_makes_the_noise_is_named() -> None:
    """The HardSigmoid of the NPU reads steps of 1 at most: what is above 127 is cut."""
    model = uneven(300.0, "c = Conv(x, w) g = HardSigmoid<alpha = 0.16666667>(c) y = Mul(c, g)")
    (text,) = told(model, preset="xint8")
    assert "limits_off=('AdjustHardSigmoid',), if the backend can do without it" in text
    assert not told(model, preset="xint8", limits_off=("AdjustHardSigmoid",))


@pytest.mark.parametrize(("mode", "named"), [("exact", True), ("soft", False)])
def test_channels_that_a_relu6_holds_are_counted(mode: str, named: bool) -> None:
    parameters = weights(w=(8, 3, 1, 1), v=(2, 8, 1, 1)) | {
        "low": np.zeros((), np.float32),
        "high": np.array(6, np.float32),
    }
    parameters["w"][:4] *= 1e3
    parameters["w"][4:] *= 1e-3
    parameters["v"][:, :4] *= 1e-4
    nodes = "a = Conv(x, w) c = Clip(a, low, high) y = Conv(c, v)"
    texts = told(
        proto(nodes, "float[N,3,6,6] x", "float[] y", parameters), preset="xint8", clip_mode=mode, cle_accept="always"
    )
    assert [("channels keep their scale at a ReLU6" in text) for text in texts] == [named] * len(texts)


@pytest.mark.parametrize(("loud", "count"), [(1, 0), (1000, 1)])
def test_loud_samples_do_not_hide_that_little_is_left_of_the_others(loud: float, count: int) -> None:
    data = DATA.copy()
    data[held_back(16)[0]] *= loud
    texts = told(uneven(1.0), data, preset="a8w8", calibration="minmax")
    assert len(texts) == count
    assert all("of the median sample only" in text and "Worth trying" in text for text in texts)


@pytest.mark.parametrize(("low", "count"), [(-50, 0), (-5000, 1)])
def test_what_is_far_below_zero_does_not_hide_that_little_is_left_of_what_is_above(low: float, count: int) -> None:
    parameters = weights(w=(2, 3, 1, 1)) | {"b": np.array([low, -3], np.float32)}
    parameters["w"] *= np.array([-low / 50, 1], np.float32)[:, None, None, None]
    data = np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32)
    texts = told(proto("y = Conv(x, w, b)", "float[N,3,6,6] x", "float[] y", parameters), data, preset="a8w8")
    assert len(texts) == count
    assert all(
        "of its few values above 0, if that is the threshold, only" in text and "Worth trying" in text for text in texts
    )
