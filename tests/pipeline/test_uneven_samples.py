"""Samples of different lengths: an axis that differs from one to the next is no channel axis, and stops nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from equiquant import compare, equalize, quantize
from equiquant.backward import measure_gains
from equiquant.calibrate import SampleView, collect, open_samples
from equiquant.io import input_specs, load_model
from equiquant.recipe import preset
from tests.canonical.support import error, proto, run, weights

LENGTHS = (40, 64, 40, 52, 48, 36)


@pytest.fixture(scope="module")
def recordings() -> list[dict[str, np.ndarray]]:
    """Return waveforms (1, time)."""
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, length)).astype(np.float32)} for length in LENGTHS]


@pytest.fixture(scope="module")
def listener() -> onnx.ModelProto:
    """Return a network whose input, and one tensor inside it, have time where others have channels."""
    parameters: dict[str, Any] = weights(w1=(8, 1, 5), w2=(6, 8, 3), w3=(6, 4))
    parameters["w1"] *= np.logspace(-1, 1, 8, dtype=np.float32).reshape(8, 1, 1)
    parameters |= {"one": np.array([1])}
    layers = "u = Unsqueeze(x, one) a = Conv(u, w1) r = Relu(a) c = Conv(r, w2)"
    nodes = layers + " t = Transpose<perm = [0, 2, 1]>(c) y = MatMul(t, w3)"
    return proto(nodes, "float[1,T] x", "float[] y", parameters)


@pytest.mark.filterwarnings("ignore:As onnxruntime runs the model")
@pytest.mark.parametrize("name", ["xint8", "a8w8", "a8w8_per_channel", "w8"])
def test_recordings_of_any_length_calibrate(
    listener: onnx.ModelProto, recordings: list[dict[str, np.ndarray]], name: str
) -> None:
    report = quantize(listener, data=recordings, preset=name).report.to_dict()
    assert report["quality"]["outputs"][0]["sqnr_db"] > 20
    assert name == "w8" or report["equalization"]["moved"] > 0


def test_equalize_and_compare_take_them_too(listener: onnx.ModelProto, recordings: list[dict[str, np.ndarray]]) -> None:
    result = equalize(listener, data=recordings)
    assert result.report.to_dict()["equalization"]["moved"] > 0
    for feed in recordings:
        assert error(run(listener, feed), run(result.model, feed)) < 1e-5
    assert compare(listener, result.model, recordings).outputs[0].error.sqnr_db > 100


def test_only_tensors_of_one_size_have_channels(
    listener: onnx.ModelProto, recordings: list[dict[str, np.ndarray]]
) -> None:
    model = load_model(listener).model
    axes = {"x": 1, "r": 1, "t": 1}
    recipe = preset("a8w8")
    with open_samples(recordings, input_specs(model), recipe, model) as stream:
        every, first, second = (
            collect(model, SampleView(stream, *part), (), recipe, channels=axes, sketches=set(axes))
            for part in ((0, 6), (0, 1), (1, 2))
        )
    tensors = every.tensors
    assert {n for n, t in tensors.items() if t.channels is not None} == {"r"}
    assert {n for n, t in tensors.items() if t.sketches is not None} == {"r"}
    values = np.concatenate([feed["x"].ravel() for feed in recordings])
    assert (tensors["x"].low, tensors["x"].high, tensors["x"].count) == (values.min(), values.max(), values.size)
    assert first.tensors["t"].channels is not None
    both = first.tensors["t"].merge(second.tensors["t"])
    assert (both.channels, both.sketches) == (None, None)
    assert set(measure_gains(model, recordings, axes)) == {"r"}
