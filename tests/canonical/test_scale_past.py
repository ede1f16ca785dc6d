"""A factor before an addition goes into the padded convolutions after it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.canonical.support import Array, canonical, proto, weights

IMAGE = "float[N,3,6,6] x"
PADDED = "Conv<pads = [1,1,1,1]>"
END = f"y = {PADDED}(b, w)"


def constants(nodes: str, **more: Array) -> dict[str, Array]:
    given = weights(w=(4, 3, 3, 3), v=(2, 3, 3, 3), each=(3, 1, 1), wide=(3, 6, 6)) | more
    given |= {
        "s": np.array(-0.4, np.float32),
        "one": np.array([[[[1.7]]]], np.float32),
        "o": np.array([0.3], np.float32),
    }
    words = nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return {name: array for name, array in given.items() if name in words}


@pytest.mark.parametrize(
    ("nodes", "ops"),
    [
        (f"r = Relu(x) a = Mul(r, s) b = Add(a, o) {END}", ["Relu", "Add", "Conv"]),
        (f"r = Relu(x) a = Div(r, one) b = Add(each, a) {END}", ["Relu", "Add", "Conv"]),
        (f"r = Relu(x) a = Mul(one, r) b = Sub(a, wide) {END}", ["Relu", "Sub", "Conv"]),
        (f"r = Relu(x) a = Mul(r, s) b = Sub(each, a) {END}", ["Relu", "Sub", "Conv"]),
        (f"a = Mul(x, s) b = Add(a, o) {END} z = {PADDED}(b, v)", ["Add", "Conv", "Conv"]),
        (f"r = Relu(x) d = Div(r, one) a = Mul(d, s) b = Add(a, o) {END}", ["Relu", "Add", "Conv"]),
        ("r = Relu(x) a = Mul(r, s) b = Add(a, o) y = Conv(b, w)", ["Relu", "Conv"]),  # and the offset, too
    ],
)
def test_one_factor_for_all_channels_goes_past_an_offset(nodes: str, ops: list[str]) -> None:
    outputs = "float[] y, float[] z" if " z = " in nodes else "float[] y"
    outcome = canonical(proto(nodes, IMAGE, outputs, constants(nodes)))
    assert outcome.ops == ops
    assert outcome.applied("fold_scale_past")


def test_the_source_keeps_its_name() -> None:
    nodes = f"r = Relu(x) a = Mul(r, s) b = Add(a, o) {END}"
    outcome = canonical(proto(nodes, IMAGE, "float[] y", constants(nodes)))
    assert outcome.node("Relu").outputs[0].name == "r"


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        (f"a = Mul(x, each) b = Add(a, o) {END}", "float[] y", "differs from channel to channel"),
        (f"a = Mul(x, zero) b = Add(a, o) {END}", "float[] y", "its factor is 0"),
        (f"a = Mul(x, tiny) b = Add(a, o) {END}", "float[] y", "beyond its type"),
        (f"a = Div(s, x) b = Add(a, o) {END}", "float[] y", "divides a constant"),
        (f"a = Mul(x, s) b = Add(a, o) {END}", "float[] y, float[] b", "graph output"),
        (f"a = Mul(x, s) b = Add(a, o) {END} z = Neg(b)", "float[] y, float[] z", "cannot absorb its factor"),
    ],
)
def test_what_cannot_go_past_is_refused(nodes: str, outputs: str, reason: str) -> None:
    more = {"zero": np.array(0, np.float32), "tiny": np.array(1e-40, np.float32)}
    outcome = canonical(proto(nodes, IMAGE, outputs, constants(nodes, **more)))
    assert reason in outcome.refused("fold_scale_past")


def test_a_factor_that_others_read_stays() -> None:
    nodes = f"a = Mul(x, s) b = Add(a, o) {END} z = Neg(a)"
    assert not canonical(proto(nodes, IMAGE, "float[] y, float[] z", constants(nodes))).applied("fold_scale_past")
