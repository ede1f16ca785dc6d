"""A model that draws random numbers is refused by name, wherever it draws them, unless nobody sees what it drew."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from equiquant import ModelError, compare, equalize, quantize
from tests.canonical.support import proto, weights

X = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32)


def noisy(nodes: str) -> onnx.ModelProto:
    constants = {**weights(w=(4, 3, 1, 1), v=(2, 4, 1, 1)), "p": np.array(0.5, np.float32), "on": np.array(True)}
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


def test_random_numbers_that_nobody_reads_do_no_harm() -> None:
    found = equalize(noisy("q = RandomNormalLike(a) s = Relu(a)"), data=X).report.to_dict()
    assert found["equalization"]["equivalence_error"] < 1e-5
