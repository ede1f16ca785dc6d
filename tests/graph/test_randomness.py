"""A model that draws random numbers is refused by name, wherever it draws them, unless no output hears of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from equiquant import ModelError, compare, equalize, quantize
from tests.canonical.support import proto, weights

X = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32)


def noisy(nodes: str) -> onnx.ModelProto:
    constants = {**weights(w=(4, 3, 1, 1), v=(2, 4, 1, 1)), "on": np.array(True)}
    constants |= {"p": np.array(0.5, np.float32), "none": np.array(0, np.float32)}
    return proto(f"a = Conv(x, w) {nodes} y = Conv(s, v)", "float[N,3,5,5] x", "float[] y", constants)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("q = RandomNormalLike(a) s = Add(a, q)", "RandomNormalLike.*Make its output an input"),
        ("q = Sigmoid(a) k = Bernoulli<seed = 1.0>(q) s = Mul(a, k)", "Bernoulli.*Make its output an input"),
        ("s = Dropout(a, p, on)", "Dropout.*Export the model for inference"),
    ],
)
def test_random_numbers_are_refused(nodes: str, said: str) -> None:
    model = noisy(nodes)
    for run in (quantize, equalize):
        with pytest.raises(ModelError, match=said):
            run(model, data=X)
    with pytest.raises(ModelError, match=said):
        compare(model, model, X)


@pytest.mark.parametrize("opset", [11, 13])
def test_functions_and_bodies_are_looked_through(opset: int) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : {opset}, "my" : 1]>
        g (float[N,4,5,5] x, bool on) => (float[N,4,5,5] y) {{
            s = Relu(x)
            y = If(on) <
                then_branch = t () => (float[N,4,5,5] p) {{ p = my.Outer(s) }},
                else_branch = e () => (float[N,4,5,5] q) {{ q = Identity(s) }}
            >
        }}
        <domain: "my", opset_import: ["" : {opset}, "my" : 1]> Outer (a) => (b) {{ b = my.Inner(a) }}
        <domain: "my", opset_import: ["" : {opset}]> Inner (a) => (b) {{ n = RandomNormalLike(a) b = Add(a, n) }}
    """)
    for run in (lambda: equalize(model), lambda: compare(model, model, {"x": X[:, :1], "on": np.array([True])})):
        with pytest.raises(ModelError, match=r"RandomNormalLike.*Make its output an input"):
            run()


@pytest.mark.parametrize(
    "nodes",
    [
        "q = RandomNormalLike(a) s = Relu(a)",
        "q = RandomNormalLike(a) r = Abs(q) s = Relu(a)",
        "q = RandomNormalLike(a) h = Shape(q) s = Reshape(a, h)",
        "s = Dropout(a, none, on)",
    ],
)
def test_random_numbers_that_reach_no_output_do_no_harm(nodes: str) -> None:
    found = equalize(noisy(nodes), data=X).report.to_dict()
    assert found["equalization"]["equivalence_error"] < 1e-5
    quality = compare(noisy(nodes), noisy(nodes), X)
    assert min(row.error.sqnr_db for row in quality.outputs) > 100
    assert min(row.error.sqnr_db for row in quality.tensors) > 100
