"""Constants with several readers, constants in odd places, constants somebody else can see."""

import numpy as np

from tests.equalization.support import Case

SAME = "<pads=[1,1,1,1]>"
IN = f"a = Conv{SAME}(x, w1, b1) "
W = {"w1": (6, 4, 3, 3), "b1": (6,)}
K, END = (6, 6, 3, 3), (2, 6, 1, 1)
TWO = "float[] y, float[] z"

CASES = [
    Case(
        "weight shared by two nodes",
        IN + f"b = Conv{SAME}(a, w2) c = Relu(b) d = Conv{SAME}(c, w2) y = Conv(d, w3)",
        "w1 b1 w2 w3",
        weights=W | {"w2": K, "w3": END},
    ),
    Case(
        "siamese branches",
        f"a = Conv{SAME}(x, w1, b1) p = Relu(a) b = Conv{SAME}(u, w1, b1) q = Relu(b) c = Conv(p, w2) d = Conv(q, w2)"
        " e = Sub(c, d) y = Conv(e, w3)",
        "w1 b1 w2 w3",
        inputs="float[N,4,6,6] x, float[N,4,6,6] u",
        weights=W | {"w2": (3, 6, 1, 1), "w3": (2, 3, 1, 1)},
    ),
    Case(
        "weight shared by Conv and ConvTranspose",
        IN + "t = ConvTranspose(a, w2) c = Conv(t, w2) y = Conv(c, w3)",
        "w1 b1 w2 w3",
        weights=W | {"w2": (6, 5, 1, 1), "w3": END},
    ),
    Case(
        "square weight read both ways by Gemm",
        "a = Gemm(x, w1) r = Relu(a) b = Gemm<transB=1>(r, w1) y = Gemm(b, w2)",
        "w1 w2",
        inputs="float[N,5] x",
        weights={"w1": (5, 5), "w2": (5, 2)},
    ),
    Case(
        "weight of two batch normalizations",
        IN + "n = BatchNormalization(a, g, h, m, v) r = Relu(n) p = BatchNormalization(r, g, h, m, v) y = Conv(p, w2)",
        "w1 b1 h m w2",
        weights=W | {"g": (6,), "h": (6,), "m": (6,), "v": np.ones(6, np.float32), "w2": END},
    ),
    Case(
        "bias shared by two layers",
        IN + "r = Relu(a) c = Conv(r, w2, b1) y = Conv(c, w3)",
        "w1 b1 w2 w3",
        weights=W | {"w2": (6, 6, 1, 1), "w3": END},
    ),
    Case(
        "zero bias shared by many layers",
        f"a = Conv{SAME}(x, w1, b1) b = Conv{SAME}(a, w2, b1) c = Conv{SAME}(b, w3, b1) y = Conv(c, w4)",
        "w1 w2 w3 w4",
        weights={"w1": (6, 4, 3, 3), "b1": np.zeros(6, np.float32), "w2": K, "w3": K, "w4": END},
    ),
    Case(
        "bias shared with a layer that keeps its scale",
        "a = Conv(x, w1, b1) y = Conv(a, w2, b1)",
        "w1 b1 w2",
        weights=W | {"w2": (6, 6, 1, 1)},
    ),
    Case(
        "one constant twice in one node",
        IN + "s = Sum(a, c, c) y = Conv(s, w2)",
        "w1 b1 c w2",
        weights=W | {"c": (6, 1, 1), "w2": END},
    ),
    Case(
        "weight that is also added",
        IN + "c = Conv(a, w2) s = Add(c, w2) y = Conv(s, w3)",
        "w1 b1 w2 w3",
        weights=W | {"w2": (6, 6, 1, 1), "w3": END},
        inputs="float[6,4,1,1] x",
    ),
    Case(
        "weight whose shape and values are read elsewhere",
        IN + "y = Conv(a, w2) z = Exp(w2) s = Shape(w2)",
        "w1 b1 w2",
        outputs="float[] y, float[] z, int64[4] s",
        weights=W | {"w2": END},
    ),
    Case(
        "weight that is also a graph output",
        IN + "y = Conv(a, w2)",
        "w1 b1 w2",
        outputs="float[] y, float[2,6,1,1] w2",
        weights=W | {"w2": END},
    ),
    Case(
        "weight the caller can override",
        IN + "r = Relu(a) y = Conv(r, w2)",
        pinned={"a": "weight is not a constant"},
        weights=W | {"w2": END},
        overridable=("w2",),
    ),
    Case(
        "bias the caller can override",
        IN + "r = Relu(a) y = Conv(r, w2)",
        pinned={"a": "b1: a graph input"},
        weights=W | {"w2": END},
        overridable=("b1",),
    ),
    Case(
        "addend the caller can override",
        IN + "s = Add(a, c) r = Conv(s, w2) y = Conv(r, w3)",
        "w2 w3",
        {"a": "c: a graph input"},
        weights=W | {"c": (6, 1, 1), "w2": K, "w3": END},
        overridable=("c",),
    ),
    Case(
        "slope and gate the caller can override",
        IN + "p = PRelu(a, s) m = Mul(p, c) y = Conv(m, w2)",
        "w1 b1 w2",
        weights=W | {"s": (6, 1, 1), "c": (6, 1, 1), "w2": END},
        overridable=("s", "c"),
    ),
    Case(
        "weights in Constant nodes",
        "w = Constant<value = float[2,1,1,1] {0.3, 4.0}>() e = Constant<value_float=0.5>() a = Conv(x, w) r = Relu(a)"
        " s = Add(r, e) c = Concat<axis=1>(s, a) y = Conv(c, w2)",
        "w e w2",
        inputs="float[N,1,4,4] x",
        weights={"w2": (2, 4, 1, 1)},
    ),
    Case(
        "Constant node shared by two readers",
        "c = Constant<value = float[6,1,1] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>() " + IN + "s = Add(a, c) b = Conv(s, w2)"
        " t = Add(b, c) y = Conv(t, w3)",
        "c w1 b1 w2 w3",
        weights=W | {"w2": K, "w3": END},
    ),
]
