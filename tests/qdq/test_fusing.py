"""onnxruntime's CPU provider runs the quantized graph on integers: no float Conv, Gemm, Add or pool is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from equiquant.recipe import preset
from tests.qdq.support import fused_ops, noise, op_types, parse, quantize, run, sqnr

# MaxPool, Reshape and the like run on 8 bits under their own names; QGemm may return float.
ALLOWED = {
    "QLinearConv",
    "QLinearAdd",
    "QLinearMul",
    "QLinearGlobalAveragePool",
    "QLinearAveragePool",
    "QLinearConcat",
} | {
    "QGemm",
    "QLinearMatMul",
    "MatMulIntegerToFloat",
    "NhwcMaxPool",
    "MaxPool",
    "Reshape",
    "Flatten",
    "Transpose",
    "QuantizeLinear",
    "DequantizeLinear",
}

INVERTED_RESIDUAL = """
  a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, stem, b16)   ra = Clip (a, zero, six)
  e = Conv (ra, expand, b32)                                       re = Clip (e, zero, six)
  d = Conv <group = 32, pads = [1, 1, 1, 1]> (re, depthwise, b32)  rd = Clip (d, zero, six)
  p = Conv (rd, project, b16)
  s = Add (ra, p)
  g = GlobalAveragePool (s)
  f = Flatten (g)
  y = Gemm <transB = 1> (f, fc, b8)"""
BOTTLENECK = """
  a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, stem, b16)   ra = Relu (a)
  m = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (ra)
  e = Conv (m, expand, b32)                                        re = Relu (e)
  p = Conv (re, project, b16)
  k = Conv (m, skip)
  s = Add (p, k)                                                   rs = Relu (s)
  q = AveragePool <kernel_shape = [2, 2]> (rs)
  c = Concat <axis = 1> (q, q)
  v = Conv (c, widen, b32)
  g = GlobalAveragePool (v)
  f = Reshape (g, flat)
  y = Gemm <transB = 1> (f, wide, b8)"""


def _network(body: str) -> ir.Model:
    weights = {
        "stem": noise(16, 3, 3, 3, seed=1, scale=0.4),
        "expand": noise(32, 16, 1, 1, seed=2, scale=0.3),
        "widen": noise(32, 32, 1, 1, seed=11, scale=0.3),
        "depthwise": noise(32, 1, 3, 3, seed=3, scale=0.4),
        "project": noise(16, 32, 1, 1, seed=4, scale=0.2),
        "skip": noise(16, 16, 1, 1, seed=5, scale=0.3),
        "fc": noise(8, 16, seed=6, scale=0.3),
        "wide": noise(8, 32, seed=7, scale=0.3),
        "b8": noise(8, seed=8),
        "b16": noise(16, seed=9, scale=0.3),
        "b32": noise(32, seed=10, scale=0.3),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "flat": np.array([0, -1], np.int64),
    }
    used = {k: w for k, w in weights.items() if k in body}
    return parse(f"g (float[1, 3, 32, 32] x) => (float[] y) {{ {body} }}", 17, **used)


@pytest.mark.parametrize("recipe", ["a8w8", "a8w8_per_channel"])
@pytest.mark.parametrize("body", [INVERTED_RESIDUAL, BOTTLENECK], ids=["inverted residual", "bottleneck"])
def test_a_network_runs_on_integers_from_input_to_output(body: str, recipe: str, tmp_path: Path) -> None:
    model, feed = _network(body), {"x": noise(1, 3, 32, 32)}
    quantized, _ = quantize(model, preset(recipe), [feed])
    found = fused_ops(quantized, tmp_path)
    assert set(found) <= ALLOWED
    assert found["QuantizeLinear"] == 1  # the input's
    assert found["QLinearConv"] == op_types(model)["Conv"]
    assert found["QGemm"] == found["QLinearAdd"] == 1
    assert 25 < sqnr(run(model, feed)[0], run(quantized, feed)[0]) < 100


def test_the_last_gemm_returns_float_unless_the_target_is_the_npu() -> None:
    feeds = [{"x": noise(1, 3, 32, 32)}]
    assert "y" not in quantize(_network(BOTTLENECK), preset("a8w8"), feeds)[1].activations
    assert "y" in quantize(_network(BOTTLENECK), preset("xint8"), feeds)[1].activations


def test_shared_weights_and_tensors_with_many_readers_still_fuse(tmp_path: Path) -> None:
    text = "a = Conv (x, w)  r = Relu (a)  b = Conv (r, w)  c = Conv (r, w)"
    text += "  s = Add (b, c)  t = Add (s, r)  y = Conv (t, w)"
    model = parse(f"g (float[1, 4, 8, 8] x) => (float[] y) {{ {text} }}", w=noise(4, 4, 1, 1, scale=0.3))
    quantized, _ = quantize(model, preset("a8w8"), [{"x": noise(1, 4, 8, 8)}])
    found = fused_ops(quantized, tmp_path)
    assert (found["QLinearConv"], found["QLinearAdd"]) == (4, 2)
    assert set(found) <= ALLOWED


def test_movers_at_the_input_and_scalars_fuse(tmp_path: Path) -> None:
    text = "n = Transpose <perm = [0, 3, 1, 2]> (x)  h = Mul (n, half)  a = Conv (h, w)"
    text += "  b = Sigmoid (a)  m = Mul (a, b)  y = Conv (m, w)"
    model = parse(
        f"g (float[1, 8, 8, 4] x) => (float[] y) {{ {text} }}", w=noise(4, 4, 1, 1), half=np.array(0.5, np.float32)
    )
    quantized, _ = quantize(model, preset("a8w8"), [{"x": noise(1, 8, 8, 4)}])
    assert set(fused_ops(quantized, tmp_path)) <= ALLOWED | {"QLinearSigmoid"}


def test_an_excluded_convolution_stays_float(tmp_path: Path) -> None:
    model = _network(BOTTLENECK)
    quantized, _ = quantize(model, preset("a8w8", nodes_to_exclude=("Conv_e",)), [{"x": noise(1, 3, 32, 32)}])
    found = fused_ops(quantized, tmp_path)
    assert not set(found) <= ALLOWED
    assert found["QLinearConv"] == op_types(model)["Conv"] - 1
