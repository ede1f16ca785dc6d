"""How far values can reach, as far as the ops tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from equiquant import quantize
from equiquant.graph.bounds import value_bounds
from tests.qdq.support import noise, parse

INF = math.inf
CASES = {
    "a layer's result": ("y = Conv(x, w)", (-INF, INF)),
    "Sigmoid": ("y = Sigmoid(x)", (0.0, 1.0)),
    "Tanh": ("y = Tanh(x)", (-1.0, 1.0)),
    "pooled ReLU6": ("c = Clip(x, zero, six) y = GlobalAveragePool(c)", (0.0, 6.0)),
    "Relu moved": ("r = Relu(x) t = Transpose<perm = [0, 2, 3, 1]>(r) y = Reshape(t, flat)", (0.0, INF)),
    "joined": ("g = Sigmoid(x) c = Clip(x, minus, six) y = Concat<axis = 1>(g, c)", (-1.0, 6.0)),
    "joined with an input": ("g = Sigmoid(x) y = Concat<axis = 1>(g, x)", (-INF, INF)),
    "a Clip above 0": ("c = Clip(x, two, six) y = MaxPool<kernel_shape = [2, 2]>(c)", (0.0, 6.0)),
    "beyond its neighbours": (
        'c = Clip(x, zero, six) y = Resize<mode = "cubic", coordinate_transformation_mode = "asymmetric">(c, , s)',
        (-INF, INF),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_ops_tell(name: str) -> None:
    nodes, expected = CASES[name]
    numbers = {"zero": 0.0, "six": 6.0, "minus": -1.0, "two": 2.0}
    weights = {name: np.array(x, np.float32) for name, x in numbers.items()}
    weights |= {"w": np.ones((4, 4, 1, 1), np.float32), "s": np.array([1, 1, 2, 2], np.float32)}
    used = {n: a for n, a in (weights | {"flat": np.array([1, -1])}).items() if f", {n}" in nodes}
    model = parse(f"g (float[1,4,6,6] x) => (float[] y) {{ {nodes} }}", opset=17, **used)
    assert value_bounds(model.graph.outputs[0]) == expected


def test_a_gate_that_showed_few_values_has_no_room_beyond_what_it_can_reach() -> None:
    model = parse(
        """g (float[N,4,6,6] x) => (float[N,3,6,6] y) {
            a = Conv(x, w1) p = GlobalAveragePool(a) f = Conv(p, w2) g = HardSigmoid<alpha = 0.1666667>(f)
            m = Mul(a, g) y = Conv(m, w3) }""",
        opset=17,
        w1=noise(8, 4, 1, 1),
        w2=noise(8, 8, 1, 1, seed=1),
        w3=noise(3, 8, 1, 1, seed=2),
    )
    data = noise(12, 4, 6, 6, seed=3) + noise(12, 4, 1, 1, seed=4)
    found = next(t for t in quantize(model, data=data, preset="a8w8").report.tensors if t["name"] == "g")
    assert (255 - found["zero_point"]) * found["scale"] <= 1.02
