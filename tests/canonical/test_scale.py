from __future__ import annotations

import numpy as np
import pytest

from equiquant.canonical.absorb import STANDARDIZES
from equiquant.graph.query import constant
from tests.canonical.support import Shapes, canonical, proto, weights

CONV = "y = Conv<pads=[1,1,1,1]>(x, w)"
IMAGE = "float[N,3,4,4] x"
W: Shapes = {"w": (4, 3, 3, 3)}

AFTER: dict[str, tuple[str, str, Shapes]] = {
    "mul channel": (f"{CONV} z = Mul(y, c)", IMAGE, W | {"c": (4, 1, 1)}),
    "mul full rank": (f"{CONV} z = Mul(c, y)", IMAGE, W | {"c": (1, 4, 1, 1)}),
    "mul scalar": (f"{CONV} z = Mul(y, c)", IMAGE, W | {"c": ()}),
    "div channel": (f"{CONV} z = Div(y, c_var)", IMAGE, W | {"c_var": (4, 1, 1)}),
    "add channel": (f"{CONV} z = Add(c, y)", IMAGE, W | {"c": (4, 1, 1)}),
    "add scalar": (f"{CONV} z = Add(y, c)", IMAGE, W | {"c": (1,)}),
    "sub channel": (f"{CONV} z = Sub(y, c)", IMAGE, W | {"c": (4, 1, 1)}),
    "chain": (
        f"{CONV} p = Mul(y, c) q = Add(p, d) z = Div(q, e_var)",
        IMAGE,
        W | {"c": (4, 1, 1), "d": (4, 1, 1), "e_var": ()},
    ),
    "conv transpose": (
        "y = ConvTranspose<group=3, strides=[2,2]>(x, w) z = Mul(y, c)",
        IMAGE,
        {"w": (3, 2, 2, 2), "c": (6, 1, 1)},
    ),
    "gemm mul": (
        "y = Gemm<alpha=0.5, beta=3.0>(x, w, b) z = Mul(y, c)",
        "float[N,3] x",
        {"w": (3, 4), "b": (4,), "c": (4,)},
    ),
    "gemm add": (
        "y = Gemm<alpha=0.5, beta=3.0>(x, w, b) z = Add(y, c)",
        "float[N,3] x",
        {"w": (3, 4), "b": (4,), "c": (1, 4)},
    ),
    "matmul mul": ("y = MatMul(x, w) z = Mul(y, c)", "float[N,5,3] x", {"w": (3, 4), "c": (4,)}),
    "stack of matrices": ("y = MatMul(x, w) z = Mul(y, c)", "float[2,5,3] x", {"w": (2, 3, 4), "c": (1, 1, 4)}),
    "vector": ("y = MatMul(x, w) z = Mul(y, c)", "float[3] x", {"w": (3, 4), "c": (4,)}),
}


@pytest.mark.parametrize("case", AFTER, ids=list(AFTER))
def test_folds_into_the_operator_before(case: str) -> None:
    nodes, inputs, shapes = AFTER[case]
    outcome = canonical(proto(nodes, inputs, "float[] z", weights(**shapes)))
    assert len(outcome.ops) == 1
    assert outcome.applied("fold_scale")


def test_bias_of_a_batched_matmul_is_scaled_in_place() -> None:
    nodes = "p = MatMul(x, w) y = Add(p, b) z = Mul(y, c)"
    outcome = canonical(proto(nodes, "float[N,5,3] x", "float[] z", weights(w=(3, 4), b=(4,), c=(4,))))
    assert outcome.ops == ["MatMul", "Add"]


def test_second_bias_of_a_batched_matmul_joins_the_first() -> None:
    nodes = "p = MatMul(x, w) y = Add(b, p) z = Sub(y, c)"
    outcome = canonical(proto(nodes, "float[N,5,3] x", "float[] z", weights(w=(3, 4), b=(4,), c=())))
    assert outcome.ops == ["MatMul", "Add"]


REFUSALS: dict[str, tuple[str, Shapes, str]] = {
    "spatial": (f"{CONV} z = Mul(y, c)", {"c": (4, 4, 4)}, "more than the channels"),
    "batch": (f"{CONV} z = Add(y, c)", {"c": (2, 1, 1, 1)}, "more than the channels"),
    "last axis": (f"{CONV} z = Mul(y, c)", {"c": (4,)}, "more than the channels"),
    "more dimensions": (f"{CONV} z = Mul(y, c)", {"c": (1, 1, 4, 1, 1)}, "more dimensions"),
    "sub from a constant": (f"{CONV} z = Sub(c, y)", {"c": (4, 1, 1)}, "subtracts from a constant"),
    "constant over tensor": (f"{CONV} z = Div(c, y)", {"c": (4, 1, 1)}, "divides a constant"),
    "read twice": (f"{CONV} z = Mul(y, c) r = Relu(y)", {"c": (4, 1, 1)}, "also read by"),
}


@pytest.mark.parametrize("case", REFUSALS, ids=list(REFUSALS))
def test_refuses_into_the_operator_before(case: str) -> None:
    nodes, constants, reason = REFUSALS[case]
    outputs = "float[] z, float[] r" if "Relu" in nodes else "float[] z"
    outcome = canonical(proto(nodes, IMAGE, outputs, weights(**W, **constants)))
    assert len(outcome.ops) >= 2
    assert reason in outcome.refused("fold_scale")


@pytest.mark.parametrize("step", ["Div(y, c)", "Mul(y, c)"])
def test_integers_are_not_scaled(step: str) -> None:
    """7 / 2 is 3 for integers: half of the weight would be another function."""
    parameters = {"w": np.arange(12).reshape(3, 4), "c": np.array(2)}
    outcome = canonical(proto(f"y = MatMul(x, w) z = {step}", "int64[N,3] x", "int64[] z", parameters))
    assert outcome.ops[0] == "MatMul"
    assert "are integers" in outcome.refused("fold_scale")


def test_a_constant_that_widens_a_single_channel_is_refused() -> None:
    outcome = canonical(proto("y = Conv(x, w) z = Mul(y, c)", IMAGE, "float[] z", weights(w=(1, 3, 1, 1), c=(5, 1, 1))))
    assert "5 channels and its neighbour 1" in outcome.refused("fold_scale")


def test_residual_add_is_no_constant() -> None:
    nodes = "y = Conv(x, w) v = Conv(x, w) z = Add(y, v)"
    outcome = canonical(proto(nodes, IMAGE, "float[] z", weights(w=(4, 3, 1, 1))))
    assert outcome.ops == ["Conv", "Conv", "Add"]
    assert not outcome.decisions


def test_a_constant_used_elsewhere_keeps_its_numbers() -> None:
    nodes = "y = Conv(x, w) z = Mul(y, c) r = Mul(x, w1) s = Add(r, k) q = Conv(x, w, k1) t = Add(q, c)"
    parameters = weights(w=(4, 3, 1, 1), c=(4, 1, 1), w1=(3, 1, 1), k=(3, 1, 1), k1=(4,))
    outcome = canonical(proto(nodes, IMAGE, "float[] z, float[] s, float[] t", parameters))
    assert outcome.ops.count("Conv") == 2
    shared = constant(outcome.node("Conv", 1).inputs[1])
    np.testing.assert_array_equal(shared, parameters["w"])


BEFORE: dict[str, tuple[str, str, Shapes]] = {
    "mul, padded": ("a = Mul(x, c_near) y = Conv<pads=[1,1,1,1]>(a, w)", IMAGE, W | {"c_near": (3, 1, 1)}),
    "div scalar, padded": ("a = Div(x, c_var) y = Conv<pads=[1,1,1,1]>(a, w)", IMAGE, W | {"c_var": ()}),
    "preprocessing": (
        "m = Sub(x, c) a = Div(m, d_near) y = Conv(a, w)",
        IMAGE,
        W | {"c": (1, 3, 1, 1), "d_near": (3, 1, 1)},
    ),
    "add": ("a = Add(c, x) y = Conv(a, w)", IMAGE, W | {"c": (3, 1, 1)}),
    "conv transpose": (
        "a = Mul(x, c_near) y = ConvTranspose<group=3, strides=[2,2]>(a, w)",
        IMAGE,
        {"w": (3, 2, 2, 2), "c_near": (3, 1, 1)},
    ),
    "gemm": (
        "m = Mul(x, c_near) a = Add(m, d) y = Gemm<transB=1>(a, w)",
        "float[N,3] x",
        {"w": (4, 3), "c_near": (3,), "d": ()},
    ),
    "matmul": ("a = Mul(x, c_near) y = MatMul(a, w)", "float[N,5,3] x", {"w": (3, 4), "c_near": (3,)}),
    "stack of matrices": ("a = Mul(x, c_near) y = MatMul(a, w)", "float[2,5,3] x", {"w": (2, 3, 4), "c_near": (3,)}),
}


@pytest.mark.parametrize("case", BEFORE, ids=list(BEFORE))
def test_folds_into_the_operator_after(case: str) -> None:
    nodes, inputs, shapes = BEFORE[case]
    outcome = canonical(proto(nodes, inputs, "float[] y", weights(**shapes)))
    assert len(outcome.ops) == 1
    assert outcome.applied("fold_scale_next")


BEFORE_REFUSALS: dict[str, tuple[str, str, Shapes, str]] = {
    "shift, padded": ("a = Sub(x, c) y = Conv<pads=[1,1,1,1]>(a, w)", IMAGE, W | {"c": (3, 1, 1)}, "pads its input"),
    "spatial": ("a = Mul(x, c) y = Conv(a, w)", IMAGE, W | {"c": (4, 4)}, "more than the channels"),
    "widens": ("a = Mul(x, c) y = Conv(a, w)", "float[N,1,4,4] x", W | {"c": (3, 1, 1)}, "widens"),
    "adds a dimension": ("a = Mul(x, c) y = Conv(a, w)", "float[3,3,4] x", W | {"c": (1, 3, 1, 1)}, "widens"),
    "stack of matrices": ("a = Add(x, c) y = MatMul(a, w)", "float[2,5,3] x", {"w": (2, 3, 4), "c": (3,)}, "stack"),
}


@pytest.mark.parametrize("case", BEFORE_REFUSALS, ids=list(BEFORE_REFUSALS))
def test_refuses_into_the_operator_after(case: str) -> None:
    nodes, inputs, shapes, reason = BEFORE_REFUSALS[case]
    outcome = canonical(proto(nodes, inputs, "float[] y", weights(**shapes)))
    assert len(outcome.ops) == 2
    assert reason in outcome.refused("fold_scale_next")


@pytest.mark.parametrize(
    ("nodes", "kind", "rule"),
    [
        ("t = Sub(x, m) a = Div(t, s) y = MatMul(a, w)", "float", "fold_scale_next"),
        ("t = Mul(x, s) a = Add(t, m) y = MatMul(a, w)", "float", "fold_scale_next"),
        ("t = Cast<to=1>(x) a = Div(t, s) y = MatMul(a, w)", "uint8", "fold_scale_next"),
        ("t = Mul(x, s) a = Unsqueeze(t, axes) y = MatMul(a, w)", "float", "fold_through_next"),
    ],
)
@pytest.mark.parametrize("spread", [1.9, 2.1])
def test_features_of_an_input_are_divided_by_deviations_that_differ(
    nodes: str, kind: str, rule: str, spread: float
) -> None:
    parameters = weights(w=(3, 2), m=(3,)) | {"s": np.array([1, spread, -1.5], np.float32), "axes": np.array([1])}
    outcome = canonical(proto(nodes, f"{kind}[N,3] x", "float[] y", parameters))
    assert (STANDARDIZES in {d.reason for d in outcome.decisions if d.rule == rule}) == (spread > 2)
    assert bool({"Mul", "Div"} & set(outcome.ops)) == (spread > 2)


def test_the_bias_of_one_matmul_does_not_move_to_the_next() -> None:
    nodes = "p = MatMul(x, w) a = Add(p, b) y = MatMul(a, v)"
    outcome = canonical(proto(nodes, "float[N,5,3] x", "float[] y", weights(w=(3, 4), b=(4,), v=(4, 2))))
    assert outcome.ops == ["MatMul", "Add", "MatMul"]
    assert not outcome.decisions


@pytest.mark.parametrize("gemm", ["Gemm(a, w, a)", "Gemm(x, w, a)"])
def test_the_result_as_a_bias_is_not_only_data(gemm: str) -> None:
    outcome = canonical(proto(f"a = Mul(x, c) y = {gemm}", "float[N,3] x", "float[] y", weights(w=(3, 3), c=(3,))))
    assert outcome.ops == ["Mul", "Gemm"]
