"""Blocks of whole architectures: transformers, control flow, normalizations, recurrent layers."""

import numpy as np

from tests.equalization.support import Case, ints

SAME = "<pads=[1,1,1,1]>"
IN = f"a = Conv{SAME}(x, w1) "
W = {"w1": (6, 4, 3, 3)}
END = (2, 6, 1, 1)
TOKENS = "float[N,3,6] x"

ATTENTION = (
    "q0 = MatMul(n, wq) k0 = MatMul(n, wk) v0 = MatMul(n, wv) v1 = Add(v0, bv)"
    " q1 = Reshape(q0, s) k1 = Reshape(k0, s) v2 = Reshape(v1, s)"
    " q = Transpose<perm=[0,2,1,3]>(q1) k = Transpose<perm=[0,2,3,1]>(k1) v = Transpose<perm=[0,2,1,3]>(v2)"
    " l = MatMul(q, k) d = Div(l, root) p = Softmax<axis=-1>(d) h = MatMul(p, v)"
    " h1 = Transpose<perm=[0,2,1,3]>(h) h2 = Reshape(h1, t) o = MatMul(h2, wo)"
)

CASES = [
    Case(
        "LayerNormalization feeds two layers",
        "n = LayerNormalization(x, g, h) a = MatMul(n, w1) b = MatMul(n, w2) y = Add(a, b)",
        "g h w1 w2",
        {"a": "graph output"},
        inputs=TOKENS,
        weights={"g": (6,), "h": (6,), "w1": (6, 5), "w2": (6, 5)},
    ),
    Case(
        "LayerNormalization written out with a factor of its own",
        "m = ReduceMean<axes=[2]>(x) c = Sub(x, m) q = Mul(c, c) v = ReduceMean<axes=[2]>(q)"
        " e = Add(v, eps) d = Sqrt(e) i = Reciprocal(d) f = Mul(i, g)"
        " n1 = Mul(x, f) k = Neg(m) k1 = Mul(k, f) k2 = Add(k1, h) n = Add(n1, k2)"
        " a = MatMul(n, w1) b = MatMul(n, w2) y = Add(a, b)",
        "g h w1 w2",
        {"a": "graph output", "i": "Reciprocal"},
        inputs=TOKENS,
        weights={"eps": np.float32(1e-3), "g": (6,), "h": (6,), "w1": (6, 5), "w2": (6, 5)},
    ),
    Case(
        "InstanceNormalization between convolutions",
        "a = Conv<pads=[1,1,1,1]>(x, w1) n = InstanceNormalization(a, g, h) r = Relu(n) b = Conv(r, w2) y = Relu(b)",
        "g h w2",
        {"a": "InstanceNormalization", "b": "graph output"},
        weights={"w1": (6, 4, 3, 3), "g": (6,), "h": (6,), "w2": (2, 6, 1, 1)},
    ),
    Case(
        "LayerNormalization over two axes",
        "a = MatMul(x, w1) n = LayerNormalization<axis=1>(a, g, h) y = MatMul(n, w2)",
        pinned={"a": "LayerNormalization", "n": "LayerNormalization"},
        inputs=TOKENS,
        weights={"w1": (6, 5), "g": (3, 5), "h": (3, 5), "w2": (5, 2)},
    ),
    Case(
        "attention",
        "n = LayerNormalization(x, ng, nb) " + ATTENTION + " y = Add(x, o)",
        "ng nb wq wk wv bv wo",
        {"q": "fixed scale", "k": "fixed scale", "o": "x: a graph input"},
        inputs="float[N,T,6] x",
        dynamic=3,
        weights=dict.fromkeys(("wq", "wk", "wv", "wo"), (6, 6))
        | {"ng": (6,), "nb": (6,), "bv": (6,), "root": np.float32(1.7), "s": ints(0, -1, 2, 3), "t": ints(0, -1, 6)},
    ),
    Case(
        "transformer MLP with Gelu",
        "n = LayerNormalization(x, g, h) a = MatMul(n, w1) b = Add(a, b1) d = Div(b, root) e = Erf(d) f = Add(e, one)"
        " p = Mul(b, f) q = Mul(p, half) m = MatMul(q, w2) y = Add(m, b2)",
        "g h w1",
        {"a": "Erf"},
        inputs=TOKENS,
        weights={"g": (6,), "h": (6,), "w1": (6, 9), "b1": (9,), "w2": (9, 6), "b2": (6,)}
        | {"root": np.float32(1.414), "one": np.float32(1), "half": np.float32(0.5)},
    ),
    Case(
        "gated MLP",
        "a = MatMul(x, w1) s = Sigmoid(a) g = Mul(a, s) b = MatMul(x, w2) p = Mul(g, b) y = MatMul(p, w3)",
        "w2 w3",
        {"a": "Sigmoid"},
        inputs=TOKENS,
        weights={"w1": (6, 9), "w2": (6, 9), "w3": (9, 6)},
    ),
    Case(
        "tensor times a fixed tensor",
        "s = Softmax(u) a = MatMul(x, w1) b = MatMul(a, s) r = Relu(b) y = MatMul(w2, r)",
        "w1 w2",
        inputs="float[3,4,6] x, float[5,2] u",
        weights={"w1": (6, 5), "w2": (7, 4)},
    ),
    Case(
        "If captures an intermediate tensor",
        IN + "r = Relu(a) q = If (t) <then_branch = yes () => (float[N,6,6,6] q1) { q1 = Exp(r) },"
        " else_branch = no () => (float[N,6,6,6] q2) { q2 = Identity(r) }> y = Conv(r, w2) z = Relu(q)",
        outputs="float[] y, float[] z",
        inputs="float[N,4,6,6] x, bool t",
        pinned={"a": "'r' is read inside"},
        feed={"t": np.array(True)},
        weights=W | {"w2": END},
    ),
    Case(
        "If captures a weight",
        IN + "q = If (t) <then_branch = yes () => (float[2,6,1,1] q1) { q1 = Exp(w2) },"
        " else_branch = no () => (float[2,6,1,1] q2) { q2 = Identity(w2) }> y = Conv(a, w2) z = Relu(q)",
        "w1 w2",
        outputs="float[] y, float[] z",
        inputs="float[N,4,6,6] x, bool t",
        feed={"t": np.array(True)},
        weights=W | {"w2": END},
    ),
    Case(
        "Loop captures an intermediate tensor",
        IN + "i = GlobalAveragePool(x) q = Loop (m, t, i) <body = step (int64 k, bool c, float[N,4,1,1] p)"
        " => (bool d, float[N,4,1,1] o) { d = Identity(c) g = ReduceMean<keepdims=1>(a) o = Add(p, g) }>"
        " r = Relu(a) y = Conv(r, w2) z = Relu(q)",
        pinned={"a": "'a' is read inside"},
        outputs="float[] y, float[P,Q,R,S] z",
        weights=W | {"w2": END, "m": np.array(3), "t": np.array(True)},
    ),
    Case(
        "Scan captures a weight and an intermediate tensor",
        "a = Gemm(x, w1) r = Relu(a) b = Gemm(r, w2) z = Gemm(b, w3) f, y = Scan<num_scan_inputs=1, body = step"
        " (float[6] p, float[5] e) => (float[6] o, float[2] v) { o = Relu(p) g = ReduceMean<keepdims=0>(b)"
        " t = MatMul(e, w3) v = Add(t, g) }>(i, u)",
        "w1 w2",
        {"b": "'b' is read inside"},
        inputs="float[N,4] x, float[6] i, float[3,5] u",
        outputs="float[] y, float[] z",
        weights={"w1": (4, 6), "w2": (6, 5), "w3": (5, 2)},
    ),
    Case(
        "LSTM",
        "a = MatMul(x, w1) h = LSTM<hidden_size=3>(a, wi, wr) y = Relu(h)",
        pinned={"a": "LSTM"},
        inputs="float[4,N,6] x",
        weights={"w1": (6, 5), "wi": (1, 12, 5), "wr": (1, 12, 3)},
    ),
    Case(
        "TopK has two outputs and pins",
        IN + "v, i = TopK<axis=1>(a, k) y = Conv(v, w2) z = Cast<to=1>(i)",
        pinned={"a": "TopK", "v": "TopK"},
        outputs="float[] y, float[] z",
        weights=W | {"k": ints(6), "w2": END},
    ),
    Case(
        "shape arithmetic pins nothing",
        IN + "s = Shape(a) f = ConstantOfShape(s) g = Cast<to=1>(f) b = Add(a, g) y = Conv(b, w2)",
        pinned={"a": "ConstantOfShape"},
        weights=W | {"w2": END},
    ),
    Case(
        "sizes for a Reshape pin nothing",
        IN + "s = Shape(a) b = Reshape(a, s) r = Relu(b) n = Size(a) m = Cast<to=1>(n) y = Conv(r, w2) z = Relu(m)",
        "w1 w2",
        outputs="float[] y, float[] z",
        weights=W | {"w2": END},
    ),
]
