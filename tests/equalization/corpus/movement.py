"""Split, Slice, Gather, Pad: channels change places, and their classes go with them."""

from typing import Any

import numpy as np

from tests.equalization.support import Case, ints

IN = "a = Conv<pads=[1,1,1,1]>(x, w1) "
W = {"w1": (6, 4, 3, 3)}
END = (2, 6, 1, 1)
BOTH = "w1 w2"


def cut(name: str, nodes: str, channels: int, changes: str = BOTH, opset: int = 17, **more: Any) -> Case:
    """One tensor goes through `nodes` from a to r, which has `channels` channels."""
    pinned = more.pop("pinned", {})
    weights = W | {"w2": (2, channels, 1, 1)} | more
    return Case(name, IN + nodes + " y = Conv(r, w2)", changes, pinned, weights=weights, opset=opset)


CASES = [
    Case(
        "Split and different branches",
        IN + "p, q = Split<axis=1>(a, s) r = Relu(p) y = Conv(r, w2) z = Conv(q, w3)",
        "w1 w2 w3",
        outputs="float[] y, float[] z",
        weights=W | {"s": ints(2, 4), "w2": (2, 2, 1, 1), "w3": (2, 4, 1, 1)},
    ),
    Case(
        "Split with an attribute, joined again",
        IN + "p, q = Split<axis=1, split=[3,3]>(a) s = Add(p, q) y = Conv(s, w2)",
        BOTH,
        opset=11,
        weights=W | {"w2": (2, 3, 1, 1)},
    ),
    Case(
        "Split along space",
        IN + "p, q = Split<axis=-1>(a) y = Conv(p, w2) z = Conv(q, w3)",
        "w1 w2 w3",
        outputs="float[] y, float[] z",
        weights=W | {"w2": END, "w3": END},
    ),
    Case(
        "Split into computed sizes",
        IN + "p, q = Split<axis=1>(a, s) g = GlobalAveragePool(p) h = ReduceMean<axes=[1]>(g) y = Conv(h, w2)",
        pinned={"a": "sizes of its pieces"},
        outputs="float[P,Q,R,S] y",
        inputs="float[N,4,6,6] x, int64[2] s",
        feed={"s": ints(2, 4)},
        weights=W | {"w2": (2, 1, 1, 1)},
    ),
    cut("Slice of channels", "r = Slice(a, s, e, x1)", 3, s=ints(1), e=ints(4), x1=ints(1)),
    cut("Slice with negative indices", "r = Slice(a, s, e, x1)", 3, s=ints(-4), e=ints(-1), x1=ints(-3)),
    cut(
        "Slice backwards by two",
        "r = Slice(a, s, e, x1, t)",
        3,
        s=ints(-1),
        e=ints(-(2**31)),
        x1=ints(1),
        t=ints(-2),
    ),
    cut(
        "Slice backwards to a place",
        "r = Slice(a, s, e, x1, t)",
        4,
        s=ints(10),
        e=ints(1),
        x1=ints(1),
        t=ints(-1),
    ),
    cut("Slice without axes", "r = Slice(a, s, e)", 4, s=ints(0, 2), e=ints(2**60, 6)),
    cut("Slice in an old opset", "r = Slice<starts=[1], ends=[5], axes=[1]>(a)", 4, opset=9),
    cut("Slice of space", "r = Slice(a, s, e, x1)", 6, s=ints(1, 0), e=ints(4, 3), x1=ints(2, 3)),
    Case(
        "Slice of space at computed places",
        IN + "r = Slice(a, s, e, x1) y = Conv(r, w2)",
        BOTH,
        inputs="float[N,4,6,6] x, int64[1] s",
        feed={"s": ints(2)},
        weights=W | {"e": ints(5), "x1": ints(2), "w2": END},
    ),
    Case(
        "Slice of channels at computed places",
        IN + "r = Slice(a, s, e, x1) g = ReduceMean<axes=[1]>(r) y = Conv(g, w2)",
        pinned={"a": "not constants"},
        inputs="float[N,4,6,6] x, int64[1] s",
        feed={"s": ints(2)},
        weights=W | {"e": ints(5), "x1": ints(1), "w2": (2, 1, 1, 1)},
    ),
    cut("Gather shuffles channels", "r = Gather<axis=1>(a, i)", 4, i=ints(5, 0, -2, 0)),
    cut(
        "Gather of one channel drops the axis",
        "g = Gather<axis=1>(a, i) r = Unsqueeze(g, u)",
        1,
        i=np.array(3),
        u=ints(1),
    ),
    cut(
        "Gather with a matrix of indices",
        "g = Gather<axis=1>(a, i) m = ReduceMean<axes=[2], keepdims=0>(g) r = Relu(m)",
        2,
        i=ints(5, 0, 1, 2).reshape(2, 2),
    ),
    cut("Gather along space", "r = Gather<axis=2>(a, i)", 6, i=ints(0, 3)),
    Case(
        "Gather at computed places joins the channels",
        IN + "r = Gather<axis=1>(a, i) y = Conv(r, w2)",
        BOTH,
        inputs="float[N,4,6,6] x, int64[2] i",
        feed={"i": ints(2, 5)},
        weights=W | {"w2": (2, 2, 1, 1)},
    ),
    Case(
        "embedding",
        "e = Gather(t, i) a = MatMul(e, w1) r = Relu(a) y = MatMul(r, w2)",
        BOTH,
        {"e": "t: a constant"},
        inputs="int64[N,3] i",
        feed={"i": ints(2, 5, 0).reshape(1, 3)},
        weights={"t": (6, 4), "w1": (4, 5), "w2": (5, 2)},
    ),
    cut("Pad of space with zeros", "r = Pad(a, p)", 6, p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    cut(
        "Pad of space with a value",
        "r = Pad(a, p, v)",
        6,
        "",
        pinned={"a": "not zero"},
        p=ints(0, 0, 1, 1, 0, 0, 1, 1),
        v=np.float32(1),
    ),
    cut("Pad in an old opset", "r = Pad<pads=[0,0,1,1,0,0,1,1], value=0.0>(a)", 6, opset=10),
    cut("Pad by reflection", 'r = Pad<mode="reflect">(a, p)', 6, p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    cut("Pad that adds zero channels", "r = Pad(a, p)", 9, p=ints(0, 1, 0, 0, 0, 2, 0, 0)),
    cut("Pad that adds and crops channels", "r = Pad(a, p)", 5, p=ints(0, -2, 0, 0, 0, 1, 0, 0)),
    cut("Pad that repeats channels", 'r = Pad<mode="edge">(a, p)', 9, p=ints(0, 1, 0, 0, 0, 2, 0, 0)),
    cut("Pad that reflects channels", 'r = Pad<mode="reflect">(a, p)', 9, p=ints(0, 1, 0, 0, 0, 2, 0, 0)),
    cut(
        "Pad that adds channels of a value",
        "r = Pad(a, p, v)",
        9,
        "",
        pinned={"a": "not zero"},
        p=ints(0, 1, 0, 0, 0, 2, 0, 0),
        v=np.float32(0.5),
    ),
    Case(
        "Pad of a single channel with a value, its axis gone",
        "a = Conv(x, w1) q = Squeeze(a, k) r = Pad(q, p, v) u = Unsqueeze(r, k) y = Conv(u, w2)",
        pinned={"a": "not zero"},
        weights={
            "w1": (1, 4, 3, 3),
            "k": ints(1),
            "p": ints(0, 1, 1, 0, 1, 1),
            "v": np.float32(-1),
            "w2": (2, 1, 1, 1),
        },
    ),
    Case(
        "Pad that adds channels to pinned ones",
        IN + "z = Sigmoid(a) r = Pad(a, p) y = Conv(r, w2)",
        pinned={"a": "Sigmoid"},
        outputs="float[] y, float[] z",
        weights=W | {"p": ints(0, 1, 0, 0, 0, 2, 0, 0), "w2": (2, 9, 1, 1)},
    ),
    Case(
        "Pad by axes",
        IN + "r = Pad(a, p, , k) y = Conv(r, w2)",
        BOTH,
        opset=18,
        weights=W | {"p": ints(1, 2), "k": ints(-3), "w2": (2, 9, 1, 1)},
    ),
    Case(
        "Pad of an image one pixel high keeps channels apart",
        "a = Conv(x, w1) r = Pad(a, p) y = Conv(r, w2)",
        BOTH,
        inputs="float[N,4,1,6] x",
        weights={"w1": (6, 4, 1, 3), "p": ints(0, 0, 1, 1, 0, 0, 1, 1), "w2": (2, 6, 3, 3)},
    ),
    Case(
        "zero-padded shortcut",
        IN + "q = Pad(a, p) b = Conv(a, w2) s = Add(q, b) y = Conv(s, w3)",
        "w1 w2 w3",
        weights=W | {"p": ints(0, 1, 0, 0, 0, 1, 0, 0), "w2": (8, 6, 1, 1), "w3": (2, 8, 1, 1)},
    ),
]
