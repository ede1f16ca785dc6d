"""Forks and joins: residuals, concatenation, dense blocks."""

import numpy as np

from tests.equalization.support import Case

SAME = "<pads=[1,1,1,1]>"
IN = f"a = Conv{SAME}(x, w1) "
W = {"w1": (6, 4, 3, 3)}
K, END = (6, 6, 3, 3), (2, 6, 1, 1)

CASES = [
    Case(
        "residual",
        IN + f"r = Relu(a) b = Conv{SAME}(r, w2, b2) s = Add(a, b) t = Relu(s) y = Conv(t, w3)",
        "w1 w2 b2 w3",
        weights=W | {"w2": K, "b2": (6,), "w3": END},
    ),
    Case(
        "residual with the graph input",
        f"a = Conv{SAME}(x, w1) r = Relu(a) b = Conv{SAME}(r, w2) s = Add(x, b) y = Conv(s, w3)",
        "w1 w2",
        {"b": "x: a graph input", "s": "x: a graph input"},
        weights=W | {"w2": (4, 6, 3, 3), "w3": (2, 4, 1, 1)},
    ),
    Case(
        "residual chain",
        IN
        + f"b = Conv{SAME}(a, w2) s = Add(a, b) t = Relu(s) c = Conv{SAME}(t, w3) u = Add(t, c)"
        + f" d = Conv{SAME}(u, w4) v = Add(d, u) y = Conv(v, w5)",
        "w1 w2 w3 w4 w5",
        weights=W | {"w2": K, "w3": K, "w4": K, "w5": END},
    ),
    Case(
        "residual chain that ends in a graph output",
        IN + f"b = Conv{SAME}(a, w2) s = Add(a, b) r = Relu(s) c = Conv{SAME}(r, w3) y = Add(r, c)",
        pinned={"a": "graph output", "b": "graph output", "c": "graph output"},
        weights=W | {"w2": K, "w3": K},
    ),
    Case(
        "projection shortcut",
        IN + f"b = Conv{SAME}(a, w2) p = Conv(a, w3) s = Sub(b, p) y = Conv(s, w4)",
        "w1 w2 w3 w4",
        weights=W | {"w2": (5, 6, 3, 3), "w3": (5, 6, 1, 1), "w4": (2, 5, 1, 1)},
    ),
    Case(
        "Sum and Mean of several",
        IN + "b = Conv(a, w2) c = Conv(a, w3) s = Sum(a, b, c) m = Mean(s, b) y = Conv(m, w4)",
        "w1 w2 w3 w4",
        weights=W | {"w2": (6, 6, 1, 1), "w3": (6, 6, 1, 1), "w4": END},
    ),
    Case(
        "operand broadcast over channels joins them",
        IN + "b = Conv(a, w2) s = Add(a, b) y = Conv(s, w3)",
        "w1 w3",
        weights=W | {"w2": (1, 6, 1, 1), "w3": END},
    ),
    Case(
        "operand broadcast over space",
        IN + "g = GlobalAveragePool(a) b = Conv(g, w2) s = Add(a, b) y = Conv(s, w3)",
        "w1 w2 w3",
        weights=W | {"w2": (6, 6, 1, 1), "w3": END},
    ),
    Case(
        "operand of lower rank",
        "a = Gemm(x, w1) m = ReduceMean<axes=[0], keepdims=0>(a) s = Add(a, m) y = Gemm(s, w2)",
        "w1 w2",
        inputs="float[N,5] x",
        weights={"w1": (5, 7), "w2": (7, 2)},
    ),
    Case(
        "scalar of all values added to all channels",
        "a = Conv(x, w1) m = ReduceMax<keepdims=0>(a) s = Add(a, m) y = Conv(s, w2)",
        "w1 w2",
        weights=W | {"w2": END},
    ),
    Case(
        "scalar of all values gated",
        "a = Conv(x, w1) m = ReduceMax<keepdims=0>(a) g = Sigmoid(v) s = Mul(m, g) b = Conv(x, w2) t = Add(b, s)"
        " y = Conv(t, w3)",
        "w1 w2 w3",
        inputs="float[N,4,6,6] x, float[1] v",
        weights=W | {"w2": (5, 4, 1, 1), "w3": (2, 5, 1, 1)},
    ),
    Case(
        "concat of branches of different depth",
        IN + f"b = Conv{SAME}(a, w2) r = Relu(b) c = Concat<axis=1>(a, r) y = Conv(c, w3)",
        "w1 w2 w3",
        weights=W | {"w2": (5, 6, 3, 3), "w3": (2, 11, 1, 1)},
    ),
    Case(
        "concat of a tensor with itself",
        IN + "c = Concat<axis=-3>(a, a) y = Conv(c, w2)",
        "w1 w2",
        weights=W | {"w2": (2, 12, 1, 1)},
    ),
    Case(
        "concat along a spatial axis",
        IN + f"b = Conv{SAME}(x, w2) c = Concat<axis=2>(a, b) r = Relu(c) y = Conv(r, w3)",
        "w1 w2 w3",
        weights=W | {"w2": (6, 4, 3, 3), "w3": END},
    ),
    Case(
        "concat along a spatial axis of unknown size",
        IN + f"b = Conv{SAME}(x, w2) c = Concat<axis=2>(a, b) r = Relu(c) y = Conv(r, w3)",
        "w1 w2 w3",
        inputs="float[N,4,H,W] x",
        dynamic=5,
        weights=W | {"w2": (6, 4, 3, 3), "w3": END},
    ),
    Case(
        "concat with the graph input and a constant",
        IN + "c = Concat<axis=1>(a, x, k) r = Relu(c) y = Conv(r, w2)",
        "w1 w2",
        inputs="float[2,4,6,6] x",
        weights=W | {"k": (2, 1, 6, 6), "w2": (2, 11, 1, 1)},
    ),
    Case(
        "constant beside a tensor along space pins",
        IN + "c = Concat<axis=2>(k, a) y = Conv(c, w2)",
        pinned={"a": "k: a constant"},
        inputs="float[1,4,6,6] x",
        weights=W | {"k": (1, 6, 1, 6), "w2": END},
    ),
    Case(
        "inception",
        IN
        + f"b = Conv(a, w2) c = Conv{SAME}(b, w3) d = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a) e = Conv(d, w4)"
        + " f = Concat<axis=1>(a, b, c, e) r = Relu(f) y = Conv(r, w5)",
        "w1 w2 w3 w4 w5",
        weights=W | {"w2": (3, 6, 1, 1), "w3": (4, 3, 3, 3), "w4": (2, 6, 1, 1), "w5": (2, 15, 1, 1)},
    ),
    Case(
        "dense block",
        IN
        + f"b = Conv{SAME}(a, w2) p = Concat<axis=1>(a, b) r = Relu(p) c = Conv{SAME}(r, w3)"
        + " q = Concat<axis=1>(p, c) n = BatchNormalization(q, g, h, m, v) s = Relu(n) y = Conv(s, w4)",
        "w1 w2 w3 w4 g h m",
        weights=W
        | {"w2": (3, 6, 3, 3), "w3": (3, 9, 3, 3), "w4": (2, 12, 1, 1), "g": (12,), "h": (12,), "m": (12,)}
        | {"v": np.arange(1, 13, dtype=np.float32)},
    ),
    Case(
        "intermediate tensor that is a graph output",
        IN + "r = Relu(a) y = Conv(r, w2)",
        outputs="float[] y, float[] r",
        pinned={"a": "'r' is a graph output"},
        weights=W | {"w2": END},
    ),
    Case(
        "Identity at the graph output",
        IN + "y = Conv(a, w2) z = Identity(a)",
        outputs="float[] y, float[] z",
        pinned={"a": "'z' is a graph output"},
        weights=W | {"w2": END},
    ),
    Case(
        "two inputs",
        IN + f"b = Conv{SAME}(u, w2) s = Add(a, b) y = Conv(s, w3)",
        "w1 w2 w3",
        inputs="float[N,4,6,6] x, float[N,3,6,6] u",
        weights=W | {"w2": (6, 3, 3, 3), "w3": END},
    ),
]
