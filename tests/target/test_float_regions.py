"""What stays float because its neighbours do: normalizations and activation functions written out node by node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import quantize, target
from equiquant.recipe import preset
from equiquant.target.selecting.float_regions import BETWEEN_FLOAT
from tests.qdq.support import Array, noise, parse

SCALARS = {"eps": 1e-5, "half": 0.5, "one": 1.0, "third": 0.044715, "root": 0.79788, "two": 2.0}
LAYER_NORM = """
    m = ReduceMean <axes = [-1]> (a)
    d = Sub (a, m)
    q = {square}
    v = ReduceMean <axes = [-1]> (q)
    e = Add (v, eps)
    s = Sqrt (e)
    n = Div (d, s)
    g = Mul (n, gamma)
    b = Add (g, beta)
"""
GELU = """
    q = Mul (a, a)
    c = Mul (q, a)
    k = Mul (c, third)
    p = Add (a, k)
    r = Mul (p, root)
    t = Tanh (r)
    o = Add (t, one)
    h = Mul (o, half)
    b = Mul (a, h)
"""


def _model(body: str, tail: str = "y = MatMul (b, w)", **constants: Array) -> ir.Model:
    scalars: dict[str, Array] = {name: np.array(value, np.float32) for name, value in SCALARS.items()}
    vectors: dict[str, Array] = {"gamma": 1 + noise(16, seed=2) / 4, "beta": noise(16, seed=3) / 4}
    text = f"g (float[8, 16] x) => (float[] y) {{ a = MatMul (x, w) {body} {tail} }}"
    return parse(text, 17, w=noise(16, 16, seed=1) / 4, **(scalars | vectors | constants))


def _between(model: ir.Model, name: str, **options: object) -> set[str]:
    """Return the results of the nodes that stay float for their neighbours' sake."""
    found = target.survey(model, preset(name, **options))
    between = {node for node, why in found.kept_float.items() if why == BETWEEN_FLOAT}
    return {str(node.outputs[0].name) for node in model.graph if node.name in between}


@pytest.mark.parametrize("square", ["Pow (d, two)", "Mul (d, d)"])
def test_a_layer_normalization_written_out_stays_float(square: str) -> None:
    model = _model(LAYER_NORM.format(square=square))
    squares = {"q"} if square.startswith("Mul") else set()
    assert _between(model, "xint8") == set("mdvengb") | squares
    assert _between(model, "a8w8") == set("egb") | squares  # the others have no integer kernel there
    assert {"MatMul_a", "MatMul_y"} <= set(target.survey(model, preset("xint8")).nodes)


@pytest.mark.parametrize("name", ["xint8", "a8w8"])
def test_a_gelu_written_out_stays_float(name: str) -> None:
    tanh = {"t"} if name == "xint8" else set()
    assert _between(_model(GELU), name) == set("qckprohb") | tanh


@pytest.mark.parametrize("name", ["xint8", "a8w8"])
def test_a_mask_added_before_a_softmax_stays_float(name: str) -> None:
    body = "k = Mul (a, half)  p = Add (k, mask)  b = Softmax (p)"
    mask = np.where(noise(8, 16, seed=7) > 0, 0, -10000).astype(np.float32)
    assert _between(_model(body, mask=mask), name) == {"k", "p"}


def test_data_moved_in_between_makes_no_difference() -> None:
    body = "v = ReduceSum (a)  i = Reciprocal (v)  e = Expand (i, dims)  b = Mul (a, e)"
    assert _between(_model(body, dims=np.array([8, 16], np.int64)), "xint8") == {"b"}


def test_a_residual_sum_and_a_gate_stay_quantized() -> None:
    norm = LAYER_NORM.format(square="Pow (d, two)")
    residual = _model(norm, "z = MatMul (b, w)  r = Add (a, z)  y = MatMul (r, w)")
    assert "r" not in _between(residual, "xint8")
    gate = "i = Exp (x)  z = MatMul (i, w)  b = Mul (a, z)"
    assert _between(_model(gate), "xint8") == set()


def test_a_result_that_is_an_output_is_quantized_although_only_floats_read_it() -> None:
    text = "g (float[8, 16] x) => (float[] y, float[] k) { a = MatMul (x, w)  k = Mul (a, half)  y = Softmax (k) }"
    model = parse(text, 17, w=noise(16, 16), half=np.array(0.5, np.float32))
    assert _between(model, "xint8") == set()


@pytest.mark.parametrize(
    ("body", "scales", "expected"),
    [
        ("c = Sub (x, eps)  b = Div (c, s)", [1, 3] * 8, "cb"),
        ("k = Mul (x, s)  b = Add (k, gamma)", [1, 3] * 8, "kb"),
        ("c = Sub (x, eps)  b = Div (c, s)", [1, 1.9] * 8, ""),
        ("b = Div (a, s)", [1, 3] * 8, ""),  # computed, not sent
    ],
)
def test_features_of_an_input_are_made_alike_in_float(body: str, scales: list[float], expected: str) -> None:
    assert _between(_model(body, s=np.array(scales, np.float32)), "xint8") == set(expected)


def test_what_is_asked_for_by_name_is_quantized() -> None:
    model = _model(LAYER_NORM.format(square="Pow (d, two)"))
    assert _between(model, "xint8", op_types_to_quantize=["MatMul", "Add", "Mul"]) == set()
    assert _between(model, "xint8", nodes_to_quantize=["*"]) == set()


def test_rows_that_hardly_vary_survive() -> None:
    rows = noise(64, 16, seed=5) * np.geomspace(1, 0.1, 64, dtype=np.float32)[:, None]
    model = _model(LAYER_NORM.format(square="Pow (d, two)"))
    data = [rows[k : k + 8] for k in range(0, 64, 8)]
    every = sorted(target.HARDWARE["npu_cnn"].quantized)
    found = [quantize(model, data=data, preset="xint8", op_types_to_quantize=types) for types in ((), every)]
    kept, rounded = (result.report.to_dict()["quality"]["outputs"][0]["sqnr_db"] for result in found)
    assert kept > 12
    assert kept > rounded + 1
