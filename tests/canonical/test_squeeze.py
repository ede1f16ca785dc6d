"""1-D convolutions as TensorFlow computes them: what lies between Squeeze and Unsqueeze works on the long form."""

from __future__ import annotations

import numpy as np
import pytest

from tests.canonical.support import BN, Array, bn, canonical, proto, weights

CONV = "<pads=[0,1,0,1]>"
AXES = {"two": np.array([2], np.int64), "minus": np.array([-2], np.int64)}
W = weights(w=(6, 4, 1, 3), v=(5, 6, 1, 3), b=(6, 1), c=(1,))


@pytest.mark.parametrize(
    ("between", "left", "constants"),
    [
        ("r = Relu(s)", ["Relu"], {}),
        ("q = Add(s, b) r = Relu(q)", ["Relu"], {}),  # the bias goes into the Conv
        ("q = Mul(c, s) r = Sigmoid(q)", ["Sigmoid"], {}),
        ("q = Clip(s, low, high) r = Neg(q)", ["Clip", "Neg"], {"low": np.float32(0), "high": np.float32(6)}),
        ("q = Clip(s, , high) r = Neg(q)", ["Clip", "Neg"], {"high": np.float32(1)}),
        ("r = Pad(s, pads)", ["Pad"], {"pads": np.array([0, 0, 2, 0, 0, 0], np.int64)}),
        ("q = Relu(s) r = Add(s, q)", ["Relu", "Add"], {}),
        (f"q = BatchNormalization(s, {BN}) r = Relu(q)", ["Relu"], bn(6)),
        ("t0 = Conv<pads=[0,1,0,1]>(a, u) t = Squeeze(t0, minus) q = Sub(s, t) r = Tanh(q)", ["Conv", "Sub", "Tanh"],
         weights(u=(6, 6, 1, 3))),
    ],
)  # fmt: skip
def test_between_two_convolutions_nothing_is_left(between: str, left: list[str], constants: dict[str, Array]) -> None:
    nodes = f"a = Conv{CONV}(x, w) s = Squeeze(a, two) {between} l = Unsqueeze(r, two) y = Conv{CONV}(l, v)"
    outcome = canonical(proto(nodes, "float[N,4,1,9] x", "float[] y", W | AXES | constants))
    assert outcome.ops == ["Conv", *left, "Conv"]
    assert outcome.applied("undo_squeeze")


def test_the_last_squeeze_ends_behind_the_activation() -> None:
    nodes = f"a = Conv{CONV}(x, w) s = Squeeze(a, two) r = Relu(s) y = GlobalAveragePool(r)"
    outcome = canonical(proto(nodes, "float[N,4,1,9] x", "float[] y", W | AXES))
    assert outcome.ops == ["Conv", "Relu", "Squeeze", "GlobalAveragePool"]
    squeezed = outcome.node("Squeeze").outputs[0]
    assert squeezed.name == "r"  # and so it can be compared with the original's
    assert squeezed.shape is not None
    assert squeezed.shape[1:] == (6, 9)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ("a = Conv(x, w) s = Squeeze(a, two) r = Relu(s) y = Neg(s)", "float[N,6,7] r, float[N,6,7] y"),
        ("a = Conv(x, w) s = Squeeze(a, two) m = ReduceMean<axes=[2]>(s) q = Mul(s, m) y = Relu(q)", "float[] y"),
        ("a = Conv(x, w) s = Squeeze(a, two) q = Softmax(s) r = Unsqueeze(q, two) y = Neg(r)", "float[] y"),
        ("a = Conv(x, w) s = Squeeze(a, two) r = Unsqueeze(s, three) y = Neg(r)", "float[] y"),
    ],
)
def test_what_is_seen_or_works_on_the_short_form_stays(nodes: str, outputs: str) -> None:
    parameters = W | AXES | {"three": np.array([3], np.int64)}
    outcome = canonical(proto(nodes, "float[N,4,1,9] x", outputs, parameters))
    assert outcome.ops.count("Squeeze") == 1
    assert not outcome.applied("undo_squeeze")


def test_several_axes_and_constants_of_the_short_rank() -> None:
    nodes = "a = Conv(x, w) s = Squeeze(a, both) q = Mul(s, k) p = Pad(q, pads) r = Unsqueeze(p, both) y = Neg(r)"
    parameters = weights(w=(6, 4, 1, 9), k=(2, 6)) | {
        "both": np.array([3, -2], np.int64),
        "pads": np.array([0, 1, 0, 2], np.int64),
    }
    outcome = canonical(proto(nodes, "float[2,4,1,9] x", "float[] y", parameters))
    assert outcome.ops == ["Conv", "Mul", "Pad", "Neg"]


def test_axes_given_as_an_attribute() -> None:
    nodes = "a = Conv(x, w) s = Squeeze<axes=[2]>(a) r = Relu(s) l = Unsqueeze<axes=[2]>(r) y = Conv(l, v)"
    outcome = canonical(proto(nodes, "float[N,4,1,9] x", "float[] y", W, opset=11))
    assert outcome.ops == ["Conv", "Relu", "Conv"]
