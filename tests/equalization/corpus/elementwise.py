"""Activations: homogeneous ones pass classes on, Clip(0, c) holds them, the others pin."""

from typing import Any

import numpy as np

from tests.equalization.support import Case

IN = "a = Conv<pads=[1,1,1,1]>(x, w1, b1) "
OUT = " y = Conv(r, w2)"
W = {"w1": (6, 4, 3, 3), "b1": (6,), "w2": (2, 6, 1, 1)}
FREE = "w1 b1 w2"
ZERO: dict[str, Any] = {"lo": np.float32(0)}
SIX: dict[str, Any] = {"hi": np.float32(6)}


def unary(name: str, nodes: str, changes: str = FREE, **more: Any) -> Case:
    """One tensor goes through `nodes` from a to r; `more` are constants, an opset, and what is pinned."""
    opset, pinned = more.pop("opset", 17), more.pop("pinned", {})
    return Case(name, IN + nodes + OUT, changes, pinned, weights=W | more, opset=opset)


CASES = [
    unary("LeakyRelu", "r = LeakyRelu<alpha=0.1>(a)"),
    unary("LeakyRelu with a negative slope", "r = LeakyRelu<alpha=-0.5>(a)"),
    unary("PRelu per channel", "r = PRelu(a, s)", s=(6, 1, 1)),
    unary("PRelu with one slope", "r = PRelu(a, s)", s=(1,)),
    Case(
        "PRelu with a computed slope",
        IN + "p = Conv(x, w3) g = GlobalAveragePool(p) q = Relu(g) n = GlobalAveragePool(a) r = PRelu(n, q)" + OUT,
        FREE,
        {"p": "slope of a PRelu"},
        inputs="float[1,4,6,6] x",
        weights=W | {"w3": (6, 4, 1, 1)},
    ),
    unary("Abs and Neg", "m = Neg(a) r = Abs(m)"),
    unary("Identity and Dropout", "i = Identity(a) r = Dropout(i)"),
    unary("Dropout with ratio and mode", "r, m = Dropout(a, p, t)", p=np.float32(0.5), t=np.array(False)),
    unary(
        "Dropout in training mode",
        "r = Dropout(a, p, t)",
        "",
        pinned={"a": "training"},
        p=np.float32(0.0),
        t=np.array(True),
    ),
    unary("Clip(0, 6) holds its channels", "r = Clip(a, lo, hi)", "", **ZERO, **SIX),
    unary("Clip(0, 6) in an old opset", "r = Clip<min=0.0, max=6.0>(a)", "", opset=10),
    unary("Clip(0, inf) is a Relu", "r = Clip(a, lo)", **ZERO),
    unary("Clip(0, largest float) is a Relu", "r = Clip<min=0.0, max=3.4028234663852886e+38>(a)", opset=10),
    unary("Clip(-inf, 0)", "r = Clip(a, , hi)", hi=np.float32(0)),
    unary("Clip without bounds", "r = Clip(a)"),
    unary("Clip(1, 6) is no ReLU6", "r = Clip(a, lo, hi)", "", pinned={"a": "Clip(1, 6)"}, lo=np.float32(1), **SIX),
    Case(
        "Clip with computed bounds",
        IN + "q = ReduceMax<keepdims=0>(x) r = Clip(a, lo, q)" + OUT,
        pinned={"a": "bounds are not constants"},
        weights=W | ZERO,
    ),
    unary("Sigmoid pins", "r = Sigmoid(a)", "", pinned={"a": "Sigmoid has no scale rule"}),
    unary("HardSwish pins", "r = HardSwish(a)", "", pinned={"a": "HardSwish"}),
    unary(
        "h-swish decomposed",
        "p = Add(a, three) q = Clip(p, lo, hi) d = Div(q, six) r = Mul(a, d)",
        "",
        pinned={"a": "gate"},
        three=np.float32(3),
        six=np.float32(6),
        **ZERO,
        **SIX,
    ),
    unary("swish decomposed", "g = Sigmoid(a) r = Mul(a, g)", "", pinned={"a": "Sigmoid"}),
    unary("square", "r = Mul(a, a)", "", pinned={"a": "gate"}),
    unary("Softmax over channels", "r = Softmax<axis=1>(a)", "", pinned={"a": "Softmax"}),
    unary("Cast to double and back", "d = Cast<to=11>(a) r = Cast<to=1>(d)"),
    unary("Cast through integers", "d = Cast<to=6>(a) r = Cast<to=1>(d)", "", pinned={"a": "not float"}),
    unary("Pow pins", "r = Pow(a, p)", "", pinned={"a": "Pow"}, p=np.float32(2)),
    Case(
        "Where of two tensors",
        IN + "b = Conv<pads=[1,1,1,1]>(x, w3) r = Where(m, a, b)" + OUT,
        "w1 b1 w2 w3",
        inputs="float[N,4,6,6] x, bool[6,6] m",
        weights=W | {"w3": (6, 4, 3, 3)},
    ),
    Case(
        "Where on a comparison",
        IN + "b = Conv<pads=[1,1,1,1]>(x, w3) m = Greater(a, b) r = Where(m, a, b)" + OUT,
        pinned={"a": "Greater", "b": "Greater"},
        weights=W | {"w3": (6, 4, 3, 3)},
    ),
    Case(
        "Max of two tensors",
        IN + "b = Conv<pads=[1,1,1,1]>(x, w3) r = Max(a, b)" + OUT,
        "w1 b1 w2 w3",
        weights=W | {"w3": (6, 4, 3, 3)},
    ),
    Case(
        "SE gate",
        IN
        + "g = GlobalAveragePool(a) f = Conv(g, v1, c1) h = Relu(f) e = Conv(h, v2, c2) s = Sigmoid(e)"
        + " r = Mul(a, s)"
        + OUT,
        "w1 b1 w2 v1 c1 v2",
        {"e": "Sigmoid"},
        weights=W | {"v1": (3, 6, 1, 1), "c1": (3,), "v2": (6, 3, 1, 1), "c2": (6,)},
    ),
    Case(
        "SE gate, HardSigmoid, on the left",
        IN + "g = GlobalAveragePool(a) e = Conv(g, v1) s = HardSigmoid(e) r = Mul(s, a)" + OUT,
        "w1 b1 w2 v1",
        {"e": "HardSigmoid"},
        weights=W | {"v1": (6, 6, 1, 1)},
    ),
    Case(
        "SE gate, HardSigmoid decomposed",
        IN
        + "g = GlobalAveragePool(a) e = Conv(g, v1, c1) p = Add(e, three) q = Clip(p, lo, hi) s = Div(q, six)"
        + " r = Mul(s, a)"
        + OUT,
        "w1 b1 w2 v1",
        {"e": "gate"},
        weights=W | ZERO | SIX | {"v1": (6, 6, 1, 1), "c1": (6,), "three": np.float32(3), "six": np.float32(6)},
    ),
    Case(
        "division by a gate",
        IN + "b = Conv(x, w3) e = Exp(b) g = GlobalMaxPool(e) r = Div(a, g)" + OUT,
        FREE,
        {"b": "Exp"},
        weights=W | {"w3": (6, 4, 1, 1)},
    ),
    Case(
        "product of two free tensors",
        IN + "b = Conv<pads=[1,1,1,1]>(x, w3) r = Mul(a, b)" + OUT,
        FREE,
        {"b": "gate"},
        weights=W | {"w3": (6, 4, 3, 3)},
    ),
    Case(
        "BatchNormalization after Conv",
        IN + "n = BatchNormalization(a, g, h, m, v) r = Relu(n)" + OUT,
        "w1 b1 g h m w2",
        weights=W | {"g": (6,), "h": (6,), "m": (6,), "v": np.arange(1, 7, dtype=np.float32)},
    ),
    Case(
        "BatchNormalization before Conv, on the input",
        "n = BatchNormalization(x, g, h, m, v) a = Conv(n, w1, b1) r = Relu(a)" + OUT,
        "g h w1 b1 w2",
        weights=W | {"g": (4,), "h": (4,), "m": (4,), "v": np.arange(1, 5, dtype=np.float32)},
    ),
    Case(
        "BatchNormalization in training mode",
        IN + "n, p, q = BatchNormalization<training_mode=1>(a, g, h, m, v) r = Relu(n)" + OUT,
        pinned={"a": "training", "n": "training"},
        weights=W | {"g": (6,), "h": (6,), "m": (6,), "v": np.arange(1, 7, dtype=np.float32)},
    ),
]
