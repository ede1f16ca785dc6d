"""Which layers before a Log or a root stay float: those that compute a spectrum, and no network."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import quantize, target
from equiquant.recipe import preset
from equiquant.target.selecting.front_ends import FRONT_END
from tests.qdq.support import Array, noise, parse

TURNS = np.arange(16)[:, None] * np.arange(32)[None] * 2 * np.pi / 32
CONSTANTS: dict[str, Array] = {
    "re": (np.cos(TURNS) * np.hanning(32))[:, None].astype(np.float32),
    "im": (np.sin(TURNS) * np.hanning(32))[:, None].astype(np.float32),
    "low": np.array([[[0.25, 0.5, 0.25]]], np.float32),
    "mel": abs(noise(16, 16, seed=3)),
    "w": noise(16, 16, 1, seed=1) / 4,
    "v": noise(4, 16, 1, seed=2) / 4,
    "first": np.array([0]),
    "half": np.array(0.5, np.float32),
    "two": np.array(2, np.float32),
    "eps": np.array(1e-6, np.float32),
    "one": np.array([1]),
}
PARTS = "a = Conv <strides = [16]> ({0}, re)  b = Conv <strides = [16]> ({0}, im)"
STFT = PARTS.format("x")
POWER = "aa = Mul (a, a)  bb = Mul (b, b)  p = Add (aa, bb)"
LOG = "e = Add (p, eps)  l = Log (e)"
NETWORK = "c = Conv (l, w)  r = Relu (c)  y = Conv (r, v)"


def _model(*steps: str, outputs: str = "float[] y") -> ir.Model:
    return parse(f"g (float[1, 1, 512] x) => ({outputs}) {{ {'  '.join(steps)} }}", 17, **CONSTANTS)


def _front(model: ir.Model, name: str = "xint8", **options: object) -> str:
    """Return the results of the nodes of the front end, in graph order."""
    found = target.survey(model, preset(name, **options)).kept_float
    return " ".join(str(n.outputs[0].name) for n in model.graph if found.get(n.name or "") == FRONT_END)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([STFT, POWER, LOG], "a b aa bb p e"),
        ([STFT, POWER, "l = Sqrt (p)"], "a b aa bb p"),
        ([STFT, "aa = Pow (a, two)  bb = Pow (b, two)  p = Add (aa, bb)  l = Pow (p, half)"], "a b p"),
        ([STFT, "j = Concat <axis = 1> (a, b)  l = ReduceL2 <axes = [1]> (j)"], "a b j"),
        (
            [
                STFT,
                "j = Concat <axis = 0> (a, b)  n = Neg (j)  f = Slice (n, first, one)  p = Mul (f, f)  l = Sqrt (p)",
            ],
            "a b j p",
        ),
        (["d = Conv <pads = [1, 1]> (x, low)", PARTS.format("d"), POWER, LOG], "d a b aa bb p e"),
        (["k = Mul (x, half)", PARTS.format("k"), POWER, LOG], "k a b aa bb p e"),
        ([STFT, POWER, "m = MatMul (mel, p)  e = Max (eps, m)  l = Log (e)"], "a b aa bb p m e"),
        ([STFT, POWER, "s = Sqrt (p)  m = MatMul (mel, s)  l = Log (m)"], "a b aa bb p m"),
    ],
)
@pytest.mark.parametrize("name", ["xint8", "a8w8"])
def test_layers_that_compute_a_spectrum_stay_float(steps: list[str], expected: str, name: str) -> None:
    model = _model(*steps, NETWORK)
    if name == "xint8":
        assert _front(model) == expected
    quantized = target.survey(model, preset(name)).nodes
    assert {"Conv_c", "Conv_y"} <= set(quantized) <= {"Conv_c", "Relu_r", "Conv_y"}


@pytest.mark.parametrize(
    "steps",
    [
        "z = Conv <strides = [16]> (x, re)  h = Relu (z)  a = Conv (h, w)  p = Mul (a, a)  l = Sqrt (p)",
        f"{STFT} {POWER}  l = Identity (p)",
        f"{STFT} {POWER}  k = Log (p)  l = Mul (a, k)",
        f"{STFT} {POWER}  m = AveragePool <kernel_shape = [1]> (p)  l = Log (m)",
        "a = Conv <strides = [16]> (x, re)  p = Mul (a, a)  s = Sqrt (p)  n = Add (s, eps)  l = Div (a, n)",
        f"{STFT} {POWER}  t = Conv <strides = [16]> (x, re)  s = Sqrt (p)  n = Add (s, eps)  l = Div (t, n)",
    ],
    ids=["a distance", "no root", "read by others", "averaged", "a normalization", "a gain"],
)
def test_what_is_no_spectrum_is_quantized(steps: str) -> None:
    assert _front(_model(steps, NETWORK)) == ""


def test_a_spectrum_that_no_layer_or_the_caller_reads_is_quantized() -> None:
    assert _front(_model(STFT, POWER, "e = Add (p, eps)  y = Log (e)")) == ""
    assert _front(_model(STFT, POWER, LOG, NETWORK, outputs="float[] y, float[] a")) == ""


def test_what_is_asked_for_by_name_is_quantized() -> None:
    model = _model(STFT, POWER, LOG, NETWORK)
    assert _front(model, op_types_to_quantize=["Conv"]) == ""
    assert _front(model, nodes_to_quantize=["*"]) == ""
    assert _front(model, nodes_to_int16=["Conv_c"]) != ""
    assert _front(model, nodes_to_int16=["Conv_a", "Conv_b"]) == ""


@pytest.mark.parametrize("name", ["xint8", "a8w8"])
def test_quiet_samples_survive(name: str) -> None:
    data = [noise(1, 1, 512, seed=k, scale=10.0 ** -(k % 4)) for k in range(24)]
    model = _model(STFT, POWER, LOG, NETWORK)
    every = [*target.target_of(preset(name)).quantized]
    found = [quantize(model, data=data, preset=name, op_types_to_quantize=types) for types in ((), every)]
    kept, rounded = (result.report.to_dict()["quality"]["outputs"][0]["sqnr_db"] for result in found)
    assert kept > 30
    assert kept > rounded + 10
