"""Where the readers of a tensor make the same of any larger value, and what that does to the tensor's range."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import quantize
from equiquant.equalization.saturation import saturation
from equiquant.io import Runner
from tests.qdq.support import noise, parse

SPAN = -50.0, 40.0
NUMBERS = {"zero": 0.0, "half": 0.5, "one": 1.0, "root": 2**0.5, "three": 3.0, "six": 6.0}
READERS = {
    "HardSwish": ("s = HardSwish(a)", (np.inf, 3.0)),
    "written-out HardSwish": ("t = Add(a, three) g = Clip(t, zero, six) m = Mul(a, g) s = Div(m, six)", (np.inf, 3.0)),
    "SiLU": ("g = Sigmoid(a) s = Mul(a, g)", (np.inf, 5.8)),
    "GELU": ("d = Div(a, root) e = Erf(d) f = Add(e, one) g = Mul(a, f) s = Mul(g, half)", (np.inf, 2.45)),
    "HardSigmoid": ("s = HardSigmoid<alpha = 0.25>(a)", (2.0, 2.0)),
    "Clip": ("s = Clip(a, one, six)", (6.0, 0.0)),
    "written-out Mish": ("e = Exp(a) f = Add(e, one) l = Log(f) h = Tanh(l) s = Mul(a, h)", (np.inf, 5.8)),
    "Relu": ("s = Relu(a)", (np.inf, 0.0)),
    "Sigmoid and Tanh": ("p = Sigmoid(a) q = Tanh(a) r = MaxPool<kernel_shape = [1, 1]>(p) s = Add(r, q)", (7.6, 7.6)),
}


def _model(readers: str, outputs: str = "float[] y", **weights: Any) -> ir.Model:
    used = {name: np.array(value, np.float32) for name, value in NUMBERS.items() if name in readers}
    weights |= {"w1": noise(3, 4, 1, 1), "w2": noise(2, 3, 1, 1, seed=1)}
    text = f"g (float[N,4,6,6] x) => ({outputs}) {{ a = Conv(x, w1) {readers} y = Conv(s, w2) }}"
    return parse(text, opset=20, **weights, **used)


def _found(model: ir.Model) -> dict[str, tuple[float, float]]:
    return saturation([v for node in model.graph for v in node.outputs], {"a": SPAN})


@pytest.mark.parametrize("name", READERS)
def test_a_function_is_level_from_somewhere_on(name: str) -> None:
    readers, expected = READERS[name]
    for end, known in zip(_found(_model(readers))["a"], expected, strict=True):
        assert end == pytest.approx(known, rel=0.05, abs=0.1)


@pytest.mark.parametrize("name", READERS)
def test_what_lies_beyond_can_be_cut_off(name: str) -> None:
    readers, _ = READERS[name]
    whole = _model(readers)
    above, below = _found(whole)["a"]
    low, high = (np.array(end, np.float32) for end in (-min(below, 50), min(above, 40)))
    cut = _model(f"c = Clip(a, low, high) {readers.replace('(a', '(c')}", low=low, high=high)
    feed = {"x": noise(1, 4, 6, 6) * 6}
    first, second = (Runner(model, ["s"]).run(feed)[0] for model in (whole, cut))
    assert np.abs(first - second).max() < 0.01 * np.abs(first).max()


@pytest.mark.parametrize(
    ("readers", "outputs"),
    [
        ("h = HardSwish(a) p = MaxPool<kernel_shape = [1, 1]>(a) s = Add(h, p)", "float[] y"),  # read as it is, too
        ("s = HardSwish(a)", "float[] y, float[] a"),
        ("s = LeakyRelu(a)", "float[] y"),
        ("t = Mul(a, each) s = HardSwish(t)", "float[] y"),  # each channel has an end of its own
        ("t = Exp(a) s = Sqrt(t)", "float[] y"),  # level at 0 below, without end above
        ("t = Exp(a) s = Reciprocal(t) z = Cast<to = 10>(s)", "float[] y, float16[] z"),
    ],
)
def test_where_there_is_no_end(readers: str, outputs: str) -> None:
    each = {"each": noise(3, 1, 1)} if "each" in readers else {}
    assert _found(_model(readers, outputs, **each)).get("a", (np.inf, np.inf))[0] == np.inf


@pytest.mark.parametrize("readers", ["t = Relu(a) u = Add(t, half) s = Div(one, u)", "u = Exp(a) s = Div(one, u)"])
def test_a_pole_where_no_value_lies_is_no_matter(readers: str) -> None:
    model = _model(readers)
    values = [v for node in model.graph for v in node.outputs]
    assert saturation(values, {"u": (0.5, 5.0)}) == {}
    assert saturation(values, {"u": (0.01, 100.0)})["u"][0] == pytest.approx(
        17.0, rel=0.1
    )  # 1/17 − 1/100 is 1/20 of a step


@pytest.mark.parametrize(
    ("nodes", "below"),
    [
        ("y = Exp(a)", np.inf),
        ("y = Softplus(a)", np.inf),
        ("e = Exp(a) m = Mul(e, each) t = Transpose(m) y = Concat<axis = 0>(t, t)", np.inf),
        ("e = Softplus(a) y = Add(e, half)", 8.3),  # half of it more
        ("n = Neg(a) e = Exp(n) f = Add(e, one) y = Div(one, f)", 7.6),  # a Sigmoid tells by differences
        ("n = Neg(a) e = Exp(n) f = Add(e, one) y = Reciprocal(f)", 7.6),
        ("e = Exp(a) f = Add(e, one) r = Reciprocal(e) g = Mul(r, f) y = Sqrt(g)", np.inf),
        ("e = Exp(a) r = ReduceSum(e) y = Div(e, r)", np.inf),  # a Softmax
        ("e = Exp(a) r = ReduceSum(e) y = Log(r)", np.inf),
        ("e = Exp(a) f = Add(e, one) y = Log(f)", 16.6),  # where e is nothing beside 1 in float32
        ("e = Exp(a) f = Pow(e, half) y = DepthToSpace<blocksize = 1>(f)", np.inf),
        ("e = Exp(a) t = Transpose(e) y = Cast<to = 10>(t)", np.inf),
        ("e = Exp(a) y = Conv(e, w2)", -SPAN[1] + 7.6),
        ("e = Exp(a) i = Identity(e) t = Flatten(i) y = Gemm(t, w3)", -SPAN[1] + 7.6),
    ],
)
def test_an_exponential_that_nothing_rounds_is_heard_whole(nodes: str, below: float) -> None:
    weights = {"each": noise(3, 1, 1), "w1": noise(3, 4, 1, 1), "w2": noise(2, 3, 1, 1), **NUMBERS}
    weights["w3"] = noise(108, 2)
    used = {name: np.array(value, np.float32) for name, value in weights.items() if name in f"{nodes} w1"}
    model = parse(f"g (float[N,4,6,6] x) => (float[] y) {{ a = Conv(x, w1) {nodes} }}", opset=20, **used)
    found = _found(model).get("a", (np.inf, np.inf))
    assert found[1] == pytest.approx(max(below, 0.0), rel=0.05, abs=0.1)


def test_small_values_of_an_exponential_output_are_told_apart() -> None:
    model = parse(
        "g (float[N,1,6,6] x) => (float[] y) { a = Conv(x, w1) y = Exp(a) }", w1=np.full((1, 1, 1, 1), 3, np.float32)
    )
    data = np.abs(noise(16, 1, 6, 6)) - 1.0
    data[:, :, 0, 0] = 3.0  # a largest value of exp(9)
    result = quantize(model, data=data, preset="a8w8")
    expected, found = (np.log(Runner(m, ["y"]).run({"x": data})[0]) for m in (model, result.model))
    assert np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize(
    ("options", "ends"),
    [({}, True), ({"cle_method": "pairwise"}, True), ({"calibration": "minmax"}, False)],  # which is what its name says
)
def test_a_range_ends_where_nothing_changes(options: dict[str, Any], ends: bool) -> None:
    model = _model("s = HardSwish(a)")
    model.graph.initializers["w1"].const_value = ir.tensor(noise(3, 4, 1, 1) * 10)
    data = noise(16, 4, 6, 6, seed=2)
    least = min(float(Runner(model, ["a"]).run({"x": data})[0].min()), -20.0)
    found = next(t for t in quantize(model, data=data, preset="a8w8", **options).report.tensors if t["name"] == "a")
    low = -found["scale"] * found["zero_point"]
    assert low == pytest.approx(-3.0 if ends else least, abs=0.5)
    assert low + 255 * found["scale"] > 30
