"""What a layer reads counts in its noise, whether the tensor has a range of its own or not."""

import numpy as np
import onnx
import pytest

from equiquant import equalize
from tests.canonical.support import proto, weights

DATA = 30 * np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)


def network(second: str, **constants: np.ndarray) -> onnx.ModelProto:
    """Return a Conv, a Relu and, named `second`, what `second` says."""
    parameters = weights(w1=(8, 3, 1, 1), w2=(4, 8, 3, 3)) | constants
    return proto(f"a = Conv(x, w1) r = Relu(a) {second}", "float[N,3,8,8] x", "float[] y", parameters)


def told(model: onnx.ModelProto) -> float:
    """Return the SQNR told of the output where the last layer's weight is all that is rounded."""
    rows = [row for row in equalize(model, data=DATA).report.equalization["noise"] if row["kind"] == "weight"]
    return float(rows[-1]["before"])


def test_a_pad_before_a_conv_makes_as_much_noise_as_one_in_it() -> None:
    inside = network("y = Conv <pads = [1, 1, 1, 1]> (r, w2)")
    before = network("p = Pad(r, pads) y = Conv(p, w2)", pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    assert told(before) == pytest.approx(told(inside), abs=0.5)


def test_a_layer_behind_a_flatten_makes_as_much_noise_as_a_conv() -> None:
    kernel = weights(w2=(4, 8, 1, 1))["w2"]
    conv = network("g = GlobalAveragePool(r) y = Conv(g, w2)", w2=kernel)
    flat = network("g = GlobalAveragePool(r) f = Flatten(g) y = Gemm <transB = 1> (f, w2)", w2=kernel.reshape(4, 8))
    assert told(flat) == pytest.approx(told(conv), abs=0.5)
