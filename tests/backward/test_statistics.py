"""The gradients of what BatchNormalizations see, against numerical differentiation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant.backward.statistics import StatisticsGraph, build_statistics
from equiquant.io import Runner
from tests.backward.support import Array, noise, parse

NET = """g (float[1,3,6,6] x) => (float[1,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)  n = BatchNormalization (a, gamma, beta, mean, var)  r = Relu (n)
    b = Conv <group = 6, strides = [2, 2], pads = [1, 1, 1, 1]> (r, w2)
    m = BatchNormalization <epsilon = 0.01> (b, gamma, beta, mean, var)  s = Sigmoid (m)  t = Mul (m, s)
    p = GlobalAveragePool (t)  q = Flatten (p)  y = Gemm (q, w3) }"""
WEIGHTS = {
    "w1": noise(6, 3, 3, 3, seed=1), "w2": noise(6, 1, 3, 3, seed=3), "w3": noise(6, 5, seed=5),
    "gamma": noise(6, seed=6), "beta": noise(6, seed=7), "mean": noise(6, seed=8), "var": noise(6, seed=9) ** 2 + 1,
}  # fmt: skip


def net(text: str = NET) -> ir.Model:
    return parse(text, 17, **WEIGHTS)


def ends(graph: StatisticsGraph) -> dict[str, Array]:
    return {
        name: noise(layer.mean.size, seed=20 + 2 * index + part)
        for index, layer in enumerate(graph.layers)
        for part, name in enumerate((layer.constant, layer.slope))
    }


def test_what_is_stored_is_found() -> None:
    graph = build_statistics(net(), {"x": noise(1, 3, 6, 6)})
    assert graph is not None
    assert graph.inputs == ("x",)
    first, second = graph.layers
    np.testing.assert_array_equal(first.mean, WEIGHTS["mean"])
    np.testing.assert_allclose(first.variance, WEIGHTS["var"] + 1e-5, rtol=1e-6)
    np.testing.assert_allclose(second.variance, WEIGHTS["var"] + 0.01, rtol=1e-6)
    assert (first.positions, second.positions) == (36, 9)


def test_sums_and_gradients_are_exact() -> None:
    """The loss Σ u·a + v·a²/2 has the derivative u + v·a; its gradient at x is that of the graph."""
    x = noise(1, 3, 6, 6, seed=4)
    model = net()
    graph = build_statistics(model, {"x": x})
    assert graph is not None
    given = ends(graph)
    gradient, *sums = Runner(graph.model).run({"x": x, **given})
    seen = Runner(model, ["a", "b"]).run({"x": x})
    for index, array in enumerate(seen):
        np.testing.assert_allclose(sums[2 * index], array.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(sums[2 * index + 1], np.square(array).sum((0, 2, 3)), rtol=1e-4)
    runner = Runner(model, ["a", "b"])

    def loss(at: Array) -> float:
        total = 0.0
        for layer, array in zip(graph.layers, runner.run({"x": at}), strict=True):
            u, v = (given[name].astype(np.float64)[:, None, None] for name in (layer.constant, layer.slope))
            wide = array.astype(np.float64)
            total += float((u * wide + v * np.square(wide) / 2).sum())
        return total

    step = np.float32(2.0**-8)
    for place in [(0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 5, 5), (0, 0, 3, 1)]:
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        numeric = (loss(up) - loss(down)) / (2 * step)
        assert gradient[place] == pytest.approx(numeric, rel=0.03, abs=0.1)


def test_several_inputs_and_one_that_reaches_nothing() -> None:
    text = """g (float[1,3,6,6] x, float[1,6,6,6] other, int64[1] k) => (float[1,6,6,6] y, float[1,6,6,6] z) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  n = BatchNormalization (a, gamma, beta, mean, var)
        y = Add (n, other)  z = Gather (other, k) }"""
    graph = build_statistics(
        net(text), {"x": noise(1, 3, 6, 6), "other": noise(1, 6, 6, 6), "k": np.zeros(1, np.int64)}
    )
    assert graph is not None
    assert graph.inputs == ("x",)


@pytest.mark.parametrize(
    "layer",
    [
        "y = Relu (a)",
        "q, m1, v1 = BatchNormalization <training_mode = 1> (a, gamma, beta, mean, var)  y = Relu (q)",
        "d = Add (mean, mean)  r = Relu (a)  e = ReduceMean <axes = [0, 2, 3], keepdims = 0> (r)"
        "  y = BatchNormalization (a, gamma, beta, d, e)",
        "f = Floor (a)  y = BatchNormalization (f, gamma, beta, mean, var)",
    ],
    ids=["none", "training", "computed", "no gradient"],
)
def test_nothing_to_fit(layer: str) -> None:
    text = f"g (float[1,3,6,6] x) => (float[1,6,6,6] y) {{ a = Conv <pads = [1, 1, 1, 1]> (x, w1)  {layer} }}"
    assert build_statistics(net(text), {"x": noise(1, 3, 6, 6)}) is None


def test_the_model_is_left_alone() -> None:
    model = net()
    before = [(node.op_type, node.name) for node in model.graph]
    build_statistics(model, {"x": noise(1, 3, 6, 6)})
    assert [(node.op_type, node.name) for node in model.graph] == before
    assert [value.name for value in model.graph.inputs] == ["x"]
