"""Arithmetic on shapes of which the batch is dynamic: what does not depend on the batch becomes constant."""

from __future__ import annotations

import numpy as np
import pytest

from tests.canonical.support import Array, canonical, error, feed_for, proto, run, weights


def ints(**values: int | list[int]) -> dict[str, Array]:
    return {name: np.array(value, np.int64) for name, value in values.items()}


CHUNK = """s = Shape(x) c = Gather(s, one) p = Add(c, one) h = Div(p, two) e = Mul(h, two)
           a = Slice(x, zero, h, one) b = Slice(x, h, e, one) q = Sigmoid(b) y = Mul(a, q)"""
SHUFFLE = """s = Shape(x) n0 = Gather(s, i0) h0 = Gather(s, i2) w0 = Gather(s, i3) n = Unsqueeze(n0, zero)
             h = Unsqueeze(h0, zero) w = Unsqueeze(w0, zero) t = Concat<axis=0>(n, two, three, h, w)
             v = Reshape(x, t) f = Transpose<perm=[0,2,1,3,4]>(v) u = Concat<axis=0>(n, six, h, w)
             y = Reshape(f, u)"""
TF_SHUFFLE = """s = Shape(x) g = Cast<to=6>(s) n = Slice(g, zero, one, zero) k = Concat<axis=0>(n, six32, rest32)
                l = Cast<to=7>(k) f = Relu(x) y = Reshape(f, l)"""
HALF = "f = Relu(x) s = Shape<start=1, end=2>(x) h = Div(s, two) m = Max(h, two) y = Slice(f, zero, m, one)"
AREA = """f = Relu(x) s = Shape(x) g = Gather(s, places) p = ReduceProd<keepdims=1>(g) m = Min(p, three)
          y = Slice(f, zero, m, one)"""


@pytest.mark.parametrize(
    ("nodes", "constants", "left"),
    [
        (CHUNK, ints(zero=[0], one=[1], two=[2]), ["Slice", "Slice", "Sigmoid", "Mul"]),
        (
            SHUFFLE,
            ints(i0=0, i2=2, i3=3, zero=[0], two=[2], three=[3], six=[6]),
            ["Reshape", "Transpose", "Reshape"],
        ),
        (
            TF_SHUFFLE,
            ints(zero=[0], one=[1]) | {"six32": np.array([6], np.int32), "rest32": np.array([20], np.int32)},
            ["Relu", "Reshape"],
        ),
        (HALF, ints(zero=[0], one=[1], two=[2]), ["Relu", "Slice"]),
        (AREA, ints(zero=[0], one=[1], three=[3], places=[2, 3]), ["Relu", "Slice"]),
    ],
)
def test_what_the_batch_has_no_say_in_is_computed(nodes: str, constants: dict[str, Array], left: list[str]) -> None:
    source = proto(nodes, "float[N,6,4,5] x", "float[] y", constants)
    outcome = canonical(source)
    assert outcome.ops == left
    assert outcome.applied("fold_shapes")
    for batch in (1, 5):
        feed = feed_for(source, batch)
        assert error(run(source, feed), run(outcome.model, feed)) == 0


@pytest.mark.parametrize(
    "nodes",
    [
        "f = Relu(x) s = Shape(x) n = Gather(s, zero) m = Min(n, one) y = Slice(f, zero, m, one)",  # of the batch
        "f = Relu(x) s = Shape(x) p = ReduceProd<keepdims=1>(s) y0 = Cast<to=1>(p) y = Mul(f, y0)",
        "f = Relu(x) s = Shape(x) n = Gather(s, zero) t = Concat<axis=0>(n, n, minus) r = Reshape(f, t) y = Neg(r)",
        "f = Relu(x) s = Shape(x) n = Gather(s, zero) t = Concat<axis=0>(n, minus, one) r = Reshape(f, t) y = Neg(r)",
    ],
)
def test_what_it_has_a_say_in_stays(nodes: str) -> None:
    source = proto(nodes, "float[N,1,2,2] x", "float[] y", ints(zero=[0], one=[1], minus=[-1]))
    outcome = canonical(source)
    assert "Shape" in outcome.ops


def test_a_shape_that_is_seen_from_outside_stays() -> None:
    nodes = "f = Relu(x) s = Shape(x) c = Gather(s, one) y = Slice(f, zero, c, one)"
    outcome = canonical(proto(nodes, "float[N,6,4,5] x", "float[] y, int64[] c", ints(zero=[0], one=[1])))
    assert outcome.ops == ["Relu", "Shape", "Gather", "Slice"]


def test_shapes_known_at_last_make_more_known() -> None:
    """The second Shape is of what the first one's arithmetic cuts."""
    nodes = f"{CHUNK.replace('y = Mul(a, q)', 'm = Mul(a, q)')} s2 = Shape(m) c2 = Gather(s2, one) k = Sub(c2, one)"
    nodes += " r = Slice(m, zero, k, one) y = Conv(r, w)"
    source = proto(nodes, "float[N,6,4,5] x", "float[] y", ints(zero=[0], one=[1], two=[2]) | weights(w=(3, 2, 1, 1)))
    assert canonical(source).ops == ["Slice", "Slice", "Sigmoid", "Mul", "Slice", "Conv"]
