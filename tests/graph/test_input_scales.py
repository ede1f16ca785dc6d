from __future__ import annotations

import numpy as np
import pytest

from equiquant import io
from equiquant.graph.input_scales import evens_out, is_from_input
from tests.canonical.support import proto, weights


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ("p = Slice(x, one, two) y = Mul(c, p)", True),
        ("p, q = Split<axis=1>(x) y = Concat<axis=1>(q, p)", True),
        ("y = Sub(c, x)", True),
        ("y = Div(c, x)", False),
        ("y = Add(x, x)", False),
        ("y = Gather(c, k)", False),
        ("p = Relu(x) q = Clip(p, low) y = Transpose(q)", True),
        ("p = Min(x, c) y = Neg(p)", True),
        ("y = Max(x, x)", False),
        ("p = Sigmoid(x) y = Transpose(p)", False),
        ("p = Tanh(x) y = Concat<axis=1>(x, p)", False),
    ],
)
def test_what_comes_from_an_input(nodes: str, found: bool) -> None:
    parameters = weights(c=(4,)) | {"one": np.array([1]), "two": np.array([2]), "low": np.array(0, np.float32)}
    model = io.load_model(proto(nodes, "float[4,4] x, int64[2] k", "float[] y", parameters)).model
    assert is_from_input(model.graph.outputs[0]) == found


def test_factors_even_out_what_differs_by_more_than_a_bit() -> None:
    assert evens_out(np.array([1, -2.1]))
    assert evens_out(np.array([1, 0]))
    assert not evens_out(np.array([0.229, 0.224, 0.225]))
    assert not evens_out(np.array(3.0))
