"""PReLUs that an exporter wrote out."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant import equalize, io
from equiquant.canonical import canonicalize
from equiquant.graph.query import constant
from tests.canonical.support import Array, canonical, proto, weights

IMAGE = "float[N,3,4,4] x"
NUMBERS: dict[str, Array] = {
    "zero": np.zeros((1, 1, 1, 1), np.float32),
    "tenth": np.array(0.1, np.float32),
    "half": np.array(0.5, np.float32),
    "two": np.array(2.0, np.float32),
    "slopes": np.array([0.25, -0.5, 1.5], np.float32).reshape(3, 1, 1),
    "less": -np.array([0.25, -0.5, 1.5], np.float32).reshape(1, 3, 1, 1),
    "halves": np.array([0.125, -0.25, 0.75], np.float32).reshape(1, 3, 1, 1),
    "same": np.full((1, 3, 1, 1), 0.25, np.float32),
}


def written(nodes: str, outputs: str = "float[] y") -> dict[str, Array]:
    return {name: array for name, array in NUMBERS.items() if name in nodes + outputs}


@pytest.mark.parametrize(
    "nodes",
    [
        "p = Relu(x) m = Min(zero, x) n = Mul(m, slopes) y = Add(p, n)",
        "p = Relu(x) m = Min(x, zero) n = Mul(slopes, m) y = Sum(n, p)",
        "p = Relu(x) a = Abs(x) d = Sub(x, a) n = Mul(d, halves) y = Add(p, n)",
        "p = Relu(x) a = Abs(x) d = Sub(x, a) m = Mul(d, slopes) n = Mul(half, m) y = Add(n, p)",
        "p = Relu(x) a = Abs(x) d = Sub(x, a) m = Mul(d, slopes) n = Div(m, two) y = Add(n, p)",
        "p = Relu(x) m = Neg(x) r = Relu(m) n = Mul(r, less) y = Add(p, n)",
        "p = Relu(x) m = Neg(x) r = Relu(m) n = Mul(r, slopes) y = Sub(p, n)",
        "p = Max(x, zero) m = Clip(x, , zero) n = Mul(m, slopes) y = Add(p, n)",
    ],
)
def test_slopes_of_each_channel_make_a_prelu(nodes: str) -> None:
    constants = written(nodes) | {"zero": np.zeros((), np.float32)} if "Clip" in nodes else written(nodes)
    outcome = canonical(proto(nodes, IMAGE, "float[] y", constants))
    assert outcome.ops == ["PRelu"]
    slope = constant(outcome.node("PRelu").inputs[1])
    assert slope is not None
    assert slope.reshape(-1) == pytest.approx([0.25, -0.5, 1.5])


@pytest.mark.parametrize(
    ("nodes", "slope"),
    [
        ("n = Mul(x, tenth) y = Max(x, n)", 0.1),
        ("n = Mul(tenth, x) y = Max(n, x)", 0.1),
        ("n = Mul(x, two) y = Min(x, n)", 2.0),
        ("p = Relu(x) m = Min(x, zero) n = Mul(m, same) y = Add(p, n)", 0.25),
        ("p = LeakyRelu<alpha=0.5>(x) q = Max(x, zero) r = Sub(p, q) y = Add(q, r)", 0.5),
    ],
)
def test_one_slope_makes_a_leaky_relu(nodes: str, slope: float) -> None:
    outcome = canonical(proto(nodes, IMAGE, "float[] y", written(nodes)))
    assert outcome.ops == ["LeakyRelu"]
    assert outcome.node("LeakyRelu").attributes["alpha"].value == pytest.approx(slope)


def test_what_is_never_negative_needs_no_slope() -> None:
    nodes = "r = Relu(x) a = Abs(r) d = Sub(r, a) n = Mul(d, halves) y = Add(r, n)"
    outcome = canonical(proto(nodes, IMAGE, "float[] y", written(nodes)))
    assert outcome.ops == ["Relu"]


def test_a_part_that_is_read_elsewhere_is_where_the_expression_begins() -> None:
    nodes = "r = Relu(x) a = Abs(r) d = Sub(r, a) n = Mul(d, halves) y = Add(r, n) z = Neg(r)"
    outcome = canonical(proto(nodes, IMAGE, "float[] y, float[] z", written(nodes)))
    assert sorted(outcome.ops) == ["Neg", "PRelu", "Relu"]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ("p = Relu(x) m = Min(x, zero) n = Mul(m, slopes) y = Add(p, n)", "float[] p, float[] y"),
        ("p = Relu(x) m = Min(x, zero) n = Mul(m, slopes) y = Add(p, n) z = Neg(m)", "float[] y, float[] z"),
        ("p = Relu(x) y = Add(p, x)", "float[] y"),
        ("p = Relu(x) m = Min(x, half) n = Mul(m, slopes) y = Add(p, n)", "float[] y"),
        ("p = Relu(x) m = Min(x, zero) n = Mul(m, m) y = Add(p, n)", "float[] y"),
        ("p = Relu(x) s = Sigmoid(x) m = Min(s, zero) n = Mul(m, slopes) y = Add(p, n)", "float[] y"),
        ("n = Div(two, x) y = Max(x, n)", "float[] y"),
        ("n = Mul(x, two) p = Sub(n, x) y = Max(p, x)", "float[] y"),
    ],
)
def test_others_stay(nodes: str, outputs: str) -> None:
    outcome = canonical(proto(nodes, IMAGE, outputs, written(nodes)))
    assert not outcome.applied("fold_prelu")


def test_slopes_that_widen_the_tensor_are_refused() -> None:
    nodes = "p = Relu(x) m = Min(x, tenth) z = Min(x, zero) n = Mul(z, slopes) q = Mul(p, one) y = Add(q, n)"
    constants = written(nodes) | {"one": np.ones((3, 1, 1), np.float32)}
    outcome = canonical(proto(nodes.replace("m = Min(x, tenth) ", ""), "float[N,1,4,4] x", "float[] y", constants))
    assert "widen" in outcome.refused("fold_prelu")


@pytest.mark.parametrize(("shape", "image"), [((1, 2, 1, 1), "float[N,C,4,4] x"), ((1, 1, 1), "float[N,3] x")])
def test_slopes_that_are_all_one_widen_as_well(shape: tuple[int, ...], image: str) -> None:
    nodes = "p = Relu(x) m = Min(x, zero) n = Mul(m, equal) y = Add(p, n)"
    constants = {"zero": np.zeros((), np.float32), "equal": np.full(shape, 0.25, np.float32)}
    outcome = canonical(proto(nodes, image, "float[] y", constants))
    assert "widen" in outcome.refused("fold_prelu")


def test_a_float_model_for_elsewhere_gets_no_operator_it_has_not() -> None:
    nodes = "p = Relu(x) m = Min(x, zero) n = Mul(m, slopes) y = Add(p, n)"
    source = proto(nodes, IMAGE, "float[] y", written(nodes))
    model = io.load_model(source).model
    canonicalize(model, kinds=None)
    assert sorted(node.op_type for node in model.graph) == ["Add", "Min", "Mul", "Relu"]
    convs = proto(
        f"c = Conv(i, w) {nodes.replace('(x', '(c').replace(', x', ', c')}",
        "float[N,3,4,4] i",
        "float[] y",
        written(nodes) | {"w": np.ones((3, 3, 1, 1), np.float32)},
    )
    kept = {
        node.op_type
        for node in equalize(convs, data=np.arange(96, dtype=np.float32).reshape(2, 3, 4, 4)).model.graph.node
    }
    assert "PRelu" not in kept


def test_a_product_and_its_bias_stay_two_in_a_graph_without_a_gemm() -> None:
    given = weights(w=(3, 4), b=(4,), v=(4, 2))
    for tail, kinds in (("y = MatMul(p, v)", {"MatMul", "Add"}), ("y = Gemm(p, v)", {"Gemm"})):
        source = proto(f"m = MatMul(x, w) p = Add(m, b) {tail}", "float[8,3] x", "float[] y", given)
        data = np.random.default_rng(0).standard_normal((4, 8, 3)).astype(np.float32)
        result = equalize(source, data=iter(data))
        assert {node.op_type for node in result.model.graph.node} == kinds
        assert result.report.equalization["moved"] == 4


def test_a_cpu_has_no_integer_prelu() -> None:
    nodes = "p = Relu(x) m = Min(x, zero) n = Mul(m, slopes) y = Add(p, n)"
    model = io.load_model(proto(nodes, IMAGE, "float[] y", written(nodes))).model
    (refused,) = (d for d in canonicalize(model, kinds=("Relu", "LeakyRelu")) if d.rule == "fold_prelu")
    assert "PRelu would not run on integers" in refused.reason
    nodes = "n = Mul(x, tenth) y = Max(x, n)"
    model = io.load_model(proto(nodes, IMAGE, "float[] y", written(nodes))).model
    assert canonicalize(model, kinds=("Relu", "LeakyRelu"))[0].applied


def test_a_long_chain_of_sums_is_not_followed_to_its_start() -> None:
    """Paths through it double at every sum: far fewer steps than these would take longer than anyone waits."""
    steps = " ".join(f"r{i} = Relu(a{i}) m{i} = Mul(r{i}, k) a{i + 1} = Add(a{i}, m{i})" for i in range(60))
    nodes = f"a0 = Neg(x) {steps} y = Neg(a60)"
    outcome = canonical(proto(nodes, "float[N,3] x", "float[N,3] y", {"k": np.array(1e-3, np.float32)}))
    assert outcome.ops.count("Add") == 60
