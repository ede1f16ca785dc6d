"""Affine maps that reach a linear operator through what lies between."""

from __future__ import annotations

import numpy as np
import pytest

from tests.canonical.support import BN, Array, Shapes, bn, canonical, proto, weights

IMAGE = "float[N,3,6,6] x"
CONV = "c = Conv(x, w)"
W: Shapes = {"w": (4, 3, 3, 3), "t": (4, 1, 1), "s_var": (1, 4, 1, 1), "v": (2, 4, 1, 1)}


def constants(nodes: str, **more: Array) -> dict[str, Array]:
    given = weights(**W, r=(1, 4, 4, 4)) | more
    words = nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return {name: array for name, array in given.items() if name in words}


@pytest.mark.parametrize(
    ("nodes", "ops"),
    [
        (f"{CONV} p = Relu(c) y = Mul(p, s_var)", ["Conv", "Relu"]),
        (f"{CONV} p = LeakyRelu(c) y = Div(p, s_var)", ["Conv", "LeakyRelu"]),
        (f"{CONV} p = PRelu(c, t) y = Mul(s_var, p)", ["Conv", "PRelu"]),
        (f"{CONV} p = Add(c, k) y = Add(p, t)", ["Conv", "Add"]),
        (f"{CONV} p = Sum(k, c) y = Sub(p, t)", ["Conv", "Sum"]),
        (f"{CONV} p = Add(k, c) q = Add(p, p2) y = Add(t, q)", ["Conv", "Add", "Add"]),
        (f"{CONV} p = MaxPool<kernel_shape=[2,2]>(c) y = Add(p, t)", ["Conv", "MaxPool"]),
        (f"{CONV} p = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1]>(c) y = Add(p, t)", ["Conv", "AveragePool"]),
        (f"{CONV} p = GlobalAveragePool(c) y = Mul(p, t)", ["Conv", "GlobalAveragePool"]),
        (f"{CONV} p = Transpose<perm=[0,2,3,1]>(c) y = Add(p, last)", ["Conv", "Transpose"]),
        (f"{CONV} p = Pad(c, pads) y = Mul(p, t)", ["Conv", "Pad"]),
        (
            f"{CONV} p = Relu(c) q = Mul(p, s_var) z = Add(q, t) m = MaxPool<kernel_shape=[2,2]>(z) y = Conv(m, v)",
            ["Conv", "Relu", "MaxPool", "Conv"],
        ),
        (f"{CONV} p = GlobalAveragePool(c) f = Flatten(p) y = Add(f, vec)", ["Conv", "GlobalAveragePool", "Flatten"]),
    ],
)
def test_maps_behind_what_they_commute_with_go_into_the_operator_before(nodes: str, ops: list[str]) -> None:
    more = {
        "last": weights(t=(4,))["t"],
        "vec": weights(t=(4,))["t"],
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    }
    inputs = IMAGE + (", float[N,4,4,4] k" if " k" in nodes or "(k" in nodes else "")
    inputs += ", float[N,4,4,4] p2" if "p2" in nodes else ""
    outcome = canonical(proto(nodes, inputs, "float[] y", constants(nodes, **more)))
    assert outcome.ops == ops
    assert outcome.applied("fold_through") or outcome.applied("fold_through_next")


def test_the_bias_of_a_matmul_is_found_behind_a_reshape() -> None:
    nodes = "p = MatMul(x, m) q = Reshape(p, shape) y = Add(q, b)"
    given = weights(m=(3, 4), b=(4,)) | {"shape": np.array([-1, 1, 1, 4], np.int64)}
    outcome = canonical(proto(nodes, "float[5,3] x", "float[] y", given))
    assert outcome.ops == ["Gemm", "Reshape"]


@pytest.mark.parametrize(
    ("nodes", "ops"),
    [
        ("a = Relu(x) p = Add(a, t) q = MaxPool<kernel_shape=[2,2]>(p) y = Conv(q, v)", ["Relu", "MaxPool", "Conv"]),
        ("p = Mul(x, t_near) q = Pad(p, pads) y = Conv(q, v)", ["Pad", "Conv"]),
        ("a = Tanh(x) p = Mul(a, s_var) q = Relu(p) y = Conv(q, v) z = Conv(q, v)", ["Tanh", "Relu", "Conv", "Conv"]),
        (
            f"p = BatchNormalization(x, {BN}) q = AveragePool<kernel_shape=[2,2]>(p) y = Conv(q, v)",
            ["AveragePool", "Conv"],
        ),
        ("p = Sub(x, one) q = Transpose<perm=[0,3,1,2]>(p) y = Conv(q, u)", ["Transpose", "Conv"]),
    ],
)
def test_maps_before_what_they_commute_with_go_into_the_operators_after(nodes: str, ops: list[str]) -> None:
    more = bn(4) | {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "one": np.ones((), np.float32),
        "u": weights(u=(2, 6, 1, 1))["u"],
        "t_near": weights(t_near=(4, 1, 1))["t_near"],
    }
    outputs = "float[] y, float[] z" if " z = " in nodes else "float[] y"
    outcome = canonical(proto(nodes, "float[N,4,6,6] x", outputs, constants(nodes, **more)))
    assert outcome.ops == ops
    assert outcome.applied("fold_through_next")


@pytest.mark.parametrize(
    ("nodes", "rule", "reason"),
    [
        (f"{CONV} p = Relu(c) y = Mul(p, t)", "fold_through", "does not let it through"),
        (f"{CONV} p = MaxPool<kernel_shape=[2,2]>(c) y = Mul(p, t)", "fold_through", "does not let it through"),
        (
            f"{CONV} p = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1], count_include_pad=1>(c) y = Add(p, t)",
            "fold_through",
            "does not let it through",
        ),
        (f"{CONV} p = Pad(c, pads, one) y = Mul(p, t)", "fold_through", "does not let it through"),
        (f"{CONV} p = Flatten(c) y = Add(p, wide)", "fold_through", "cannot be followed"),
        (f"{CONV} p = Pad(c, shifting) y = Mul(p, s_var)", "fold_through", "cannot be followed"),
        (f"{CONV} p = Relu(c) y = Mul(p, r)", "fold_through", "differs along more than the channels"),
        (
            "p = Add(x, t3) q = MaxPool<kernel_shape=[2,2]>(p) y = Conv<pads=[1,1,1,1]>(q, w)",
            "fold_through_next",
            "pads its input with zeros",
        ),
        (
            "p = Mul(x, t3) q = MaxPool<kernel_shape=[2,2]>(p) y = Conv(q, w)",
            "fold_through_next",
            "does not let it through",
        ),
    ],
)
def test_what_does_not_commute_is_refused(nodes: str, rule: str, reason: str) -> None:
    more: dict[str, Array] = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "one": np.ones((), np.float32),
        "shifting": np.array([0, 1, 0, 0, 0, -1, 0, 0], np.int64),
        "wide": weights(t=(64,))["t"],
        "t3": np.array([0.5, -1.0, 2.0], np.float32).reshape(3, 1, 1),
    }
    outcome = canonical(proto(nodes, IMAGE, "float[] y", constants(nodes, **more)))
    assert reason in outcome.refused(rule)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (f"{CONV} p = Add(c, c) y = Add(p, t)", "float[] y"),  # what is added twice would be shifted twice
        (f"{CONV} p = Relu(c) y = Add(p, t)", "float[] y"),
        (f"{CONV} p = Relu(c) y = Mul(p, s_var) z = Neg(c)", "float[] y, float[] z"),
        (f"{CONV} p = Relu(c) y = Mul(p, s_var)", "float[] p, float[] y"),
        ("p = Mul(x, u) q = Relu(p) y = Conv(q, w) z = Neg(q)", "float[] y, float[] z"),
    ],
)
def test_what_others_see_stays(nodes: str, outputs: str) -> None:
    more = {"u": weights(u_var=(3, 1, 1))["u_var"]}
    outcome = canonical(proto(nodes, IMAGE, outputs, constants(nodes, **more)))
    assert not outcome.applied("fold_through")
    assert not outcome.applied("fold_through_next")
