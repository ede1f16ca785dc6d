"""Tensors whose range leaves out what nothing hears are compared on what is heard."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import quantize
from equiquant.verify import compare_models
from equiquant.verify.heard import heard
from tests.qdq.support import Array, noise, parse

DATA = noise(16, 4, 6, 6, seed=2)


def _model(readers: str, **constants: Array) -> ir.Model:
    weights = {"w1": noise(3, 4, 1, 1) * 10, "w2": noise(2, 3, 1, 1, seed=1)}
    text = f"g (float[N,4,6,6] x) => (float[] y) {{ a = Conv(x, w1) {readers} y = Conv(s, w2) }}"
    return parse(text, opset=20, **weights, **constants)


def test_what_a_hardswish_does_not_hear_is_no_noise() -> None:
    model = _model("s = HardSwish(a)")
    quantized = ir.from_proto(quantize(model, data=DATA, preset="a8w8").model)
    low, high = heard(model.graph.node("Conv_a").outputs, quantized)["a"]
    assert low == pytest.approx(-3, rel=0.25)
    assert high == np.inf
    tensors = {t.name: t.error.sqnr_db for t in compare_models(model, quantized, [{"x": DATA}]).tensors}
    assert tensors["a"] > 25


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_clip_of_integers_is_where_a_range_ends(symmetric: bool) -> None:
    model = _model("s = Clip(a, low, high)", low=np.array(-3, np.float32), high=np.array(7, np.float32))
    made = quantize(model, data=DATA, preset="a8w8", activation_symmetric=symmetric, cle=False, calibration="minmax")
    ends = heard(model.graph.node("Conv_a").outputs, ir.from_proto(made.model))["a"]
    assert ends == pytest.approx((-3, 7), rel=0.05)


def test_all_of_another_tensor_is_heard() -> None:
    model = _model("s = LeakyRelu(a)")
    quantized = ir.from_proto(quantize(model, data=DATA, preset="a8w8").model)
    assert heard([v for node in model.graph for v in node.outputs], quantized) == {}
