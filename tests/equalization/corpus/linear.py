"""Linear layers of every kind in a chain."""

import numpy as np

from tests.equalization.support import Case, floats

IN = "a = Conv<pads=[1,1,1,1]>(x, w1, b1) "
W = {"w1": (6, 4, 3, 3), "b1": (6,)}

CASES = [
    Case(
        "conv chain", IN + "r = Relu(a) y = Conv(r, w2, b2)", "w1 b1 w2", weights=W | {"w2": (3, 6, 1, 1), "b2": (3,)}
    ),
    Case(
        "pinned at both ends",
        "y = Conv(x, w1)",
        pinned={"y": "graph output", "x": "graph input"},
        weights={"w1": (6, 4, 3, 3)},
    ),
    Case(
        "depthwise triple",
        IN + "r = Relu(a) d = Conv<group=6>(r, w2, b2) s = Relu(d) y = Conv(s, w3)",
        "w1 b1 w2 b2 w3",
        weights=W | {"w2": (6, 1, 3, 3), "b2": (6,), "w3": (3, 6, 1, 1)},
    ),
    Case(
        "depth multiplier",
        IN + "d = Conv<group=6>(a, w2) y = Conv(d, w3)",
        "w1 b1 w2 w3",
        weights=W | {"w2": (12, 1, 3, 3), "w3": (3, 12, 1, 1)},
    ),
    Case(
        "grouped conv (ResNeXt)",
        IN + "g = Conv<group=3>(a, w2, b2) r = Relu(g) y = Conv(r, w3)",
        "w1 b1 w2 b2 w3",
        weights=W | {"w2": (9, 2, 3, 3), "b2": (9,), "w3": (3, 9, 1, 1)},
    ),
    Case(
        "as many outputs as groups of two inputs",
        IN + "g = Conv<group=3>(a, w2) y = Conv(g, w3)",
        "w1 b1 w2 w3",
        weights=W | {"w2": (3, 2, 1, 1), "w3": (3, 3, 1, 1)},
    ),
    Case(
        "depthwise Conv1d",
        "a = Conv(x, w1) r = Relu(a) d = Conv<group=6>(r, w2) y = Conv(d, w3)",
        "w1 w2 w3",
        inputs="float[N,4,9] x",
        weights={"w1": (6, 4, 3), "w2": (6, 1, 3), "w3": (2, 6, 1)},
    ),
    Case(
        "depthwise Conv3d",
        "a = Conv(x, w1) r = Relu(a) d = Conv<group=6>(r, w2) y = Conv(d, w3)",
        "w1 w2 w3",
        inputs="float[N,2,4,4,4] x",
        weights={"w1": (6, 2, 2, 2, 2), "w2": (6, 1, 2, 2, 2), "w3": (2, 6, 1, 1, 1)},
    ),
    Case(
        "ConvTranspose",
        IN + "t = ConvTranspose<strides=[2,2]>(a, w2, b2) r = Relu(t) y = Conv(r, w3)",
        "w1 b1 w2 b2 w3",
        weights=W | {"w2": (6, 5, 2, 2), "b2": (5,), "w3": (3, 5, 1, 1)},
    ),
    Case(
        "ConvTranspose with groups",
        IN + "t = ConvTranspose<strides=[2,2], group=3>(a, w2, b2) r = Relu(t) y = Conv(r, w3)",
        "w1 b1 w2 b2 w3",
        weights=W | {"w2": (6, 4, 2, 2), "b2": (12,), "w3": (3, 12, 1, 1)},
    ),
    Case(
        "depthwise ConvTranspose",
        IN + "t = ConvTranspose<group=6>(a, w2) y = Conv(t, w3)",
        "w1 b1 w2 w3",
        weights=W | {"w2": (6, 1, 2, 2), "w3": (3, 6, 1, 1)},
    ),
    Case(
        "Gemm chain, transB, alpha and beta",
        "a = Gemm<alpha=0.5, beta=2.0>(x, w1, b1) r = Relu(a) y = Gemm<transB=1>(r, w2, b2)",
        "w1 b1 w2",
        inputs="float[N,5] x",
        weights={"w1": (5, 7), "b1": (7,), "w2": (3, 7), "b2": (3,)},
    ),
    Case(
        "Gemm with transA",
        "a = Gemm(x, w1) t = Transpose<perm=[1,0]>(a) y = Gemm<transA=1>(t, w2)",
        "w1 w2",
        inputs="float[3,5] x",
        weights={"w1": (5, 7), "w2": (7, 2)},
    ),
    Case(
        "Gemm biases of every shape",
        "a = Gemm(x, w1, b1) b = Gemm(a, w2, b2) c = Gemm(b, w3, b3) y = Gemm(c, w4)",
        "w1 b1 w2 b2 w3 b3 w4",
        inputs="float[3,5] x",
        weights={
            "w1": (5, 7),
            "w2": (7, 6),
            "w3": (6, 4),
            "w4": (4, 2),
            "b1": (3, 1),
            "b2": (3, 6),
            "b3": np.float32(0.7),
        },
    ),
    Case(
        "producer on Gemm's C input",
        "a = Gemm(x, w1) c = Gemm(x, w2) r = Relu(c) s = Gemm(a, w3, r) y = Gemm(s, w4)",
        "w1 w2 w3 w4",
        inputs="float[N,5] x",
        weights={"w1": (5, 4), "w2": (5, 7), "w3": (4, 7), "w4": (7, 2)},
    ),
    Case(
        "one column on Gemm's C input joins all channels",
        "a = Gemm(x, w1) c = Gemm(x, w2) s = Gemm(a, w3, c) y = Gemm(s, w4)",
        "w1 w2 w3 w4",
        inputs="float[N,5] x",
        weights={"w1": (5, 4), "w2": (5, 1), "w3": (4, 7), "w4": (7, 2)},
    ),
    Case(
        "bias computed from an input",
        "b = Relu(v) a = Conv(x, w1, b) y = Conv(a, w2)",
        pinned={"a": "v: a graph input"},
        inputs="float[N,4,6,6] x, float[6] v",
        weights={"w1": (6, 4, 3, 3), "w2": (2, 6, 1, 1)},
    ),
    Case(
        "MatMul and Add",
        "a = MatMul(x, w1) s = Add(a, b1) r = Relu(s) y = MatMul(r, w2)",
        "w1 b1 w2",
        inputs="float[N,3,5] x",
        weights={"w1": (5, 7), "b1": (7,), "w2": (7, 2)},
    ),
    Case(
        "MatMul with the constant on the left",
        "a = MatMul(w1, x) r = Relu(a) y = MatMul(w2, r)",
        "w1 w2",
        inputs="float[N,5,3] x",
        weights={"w1": (7, 5), "w2": (2, 7)},
    ),
    Case(
        "MatMul of a vector",
        "a = MatMul(x, w1) r = Relu(a) m = ReduceMean<axes=[0], keepdims=0>(r) y = MatMul(m, w2)",
        pinned={"m": "vector"},
        inputs="float[N,5] x",
        weights={"w1": (5, 7), "w2": (7, 2)},
    ),
    Case(
        "Conv without group, strides or pads given",
        "a = Conv(x, w1) y = Conv(a, w2)",
        "w1 w2",
        weights={"w1": (6, 4, 1, 1), "w2": (2, 6, 3, 3)},
    ),
    Case(
        "dead channels",
        IN + "r = Relu(a) y = Conv(r, w2)",
        "w1 b1 w2",
        weights={"w1": floats(0, 1, 2, 0, 1e-3, 3).reshape(6, 1, 1, 1) * np.ones((6, 4, 3, 3), np.float32)}
        | {"b1": floats(0, 1, 2, 0, 3, 4), "w2": (2, 6, 1, 1)},
    ),
    Case(
        "ranges from 1e-12 to 1e6",
        IN + "r = Relu(a) y = Conv(r, w2)",
        "w1 w2",
        weights={
            "w1": np.logspace(-12, 6, 6, dtype=np.float32).reshape(6, 1, 1, 1) * np.ones((6, 4, 3, 3), np.float32),
            "b1": np.zeros(6, np.float32),
            "w2": np.logspace(6, -12, 6, dtype=np.float32).reshape(1, 6, 1, 1) * np.ones((2, 6, 1, 1), np.float32),
        },
    ),
    Case(
        "a layer whose weights are all tiny",
        IN + "r = Relu(a) y = Conv(r, w2)",
        "w1 w2",
        weights={
            "w1": np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32) * np.float32(1e-20),
            "b1": np.zeros(6, np.float32),
            "w2": (2, 6, 1, 1),
        },
    ),
]
