"""Constants on Add, Sub, Mul, Div, Max, Min, Where: per channel, scalar, spatial, on either side."""

import numpy as np

from tests.equalization.support import Case, floats

IN = "a = Conv<pads=[1,1,1,1]>(x, w1) "
OUT = " r = Relu(s) y = Conv(r, w2)"
W = {"w1": (6, 4, 3, 3), "w2": (2, 6, 1, 1)}
C, S, ONE = (6, 1, 1), (1, 1, 6, 6), np.float32(0.7)
POSITIVE = floats(0.5, 1, 2, 3, 4, 5).reshape(C)

CASES = [
    Case("Add of a constant per channel", IN + "s = Add(a, c)" + OUT, "w1 c w2", weights=W | {"c": C}),
    Case("Add of a scalar", IN + "s = Add(a, c)" + OUT, "w1 c w2", weights=W | {"c": ONE}),
    Case("Add of a spatial constant", IN + "s = Add(c, a)" + OUT, "w1 c w2", weights=W | {"c": S}),
    Case("Add of a full constant", IN + "s = Add(c, a)" + OUT, "w1 c w2", weights=W | {"c": (6, 6, 6)}),
    Case("Sub of a constant", IN + "s = Sub(a, c)" + OUT, "w1 c w2", weights=W | {"c": C}),
    Case("Sub from a constant", IN + "s = Sub(c, a)" + OUT, "w1 c w2", weights=W | {"c": ONE}),
    Case("Mul by a constant per channel", IN + "s = Mul(a, c)" + OUT, "w1 c w2", weights=W | {"c": C}),
    Case("Mul by a scalar", IN + "s = Mul(a, c)" + OUT, "w1 w2", weights=W | {"c": ONE}),
    Case("Mul by a spatial constant", IN + "s = Mul(a, c)" + OUT, "w1 w2", weights=W | {"c": S}),
    Case("Mul with the constant on the left", IN + "s = Mul(c, a)" + OUT, "w1 c w2", weights=W | {"c": C}),
    Case("Mul by a channel and space constant", IN + "s = Mul(a, c)" + OUT, "w1 w2", weights=W | {"c": (6, 6, 6)}),
    Case("Div by a constant per channel", IN + "s = Div(a, c)" + OUT, "w1 c w2", weights=W | {"c": POSITIVE}),
    Case("Div by a scalar", IN + "s = Div(a, c)" + OUT, "w1 w2", weights=W | {"c": ONE}),
    Case(
        "Div of a constant",
        IN + "b = Exp(a) s = Div(c, b)" + OUT,
        pinned={"a": "Exp has no scale rule", "s": "constant"},
        weights=W | {"c": ONE},
    ),
    Case("Max with a constant per channel", IN + "s = Max(a, c)" + OUT, "w1 c w2", weights=W | {"c": C}),
    Case("Min with a scalar", IN + "s = Min(a, c)" + OUT, "w1 c w2", weights=W | {"c": ONE}),
    Case("Max with zero is a Relu", IN + "s = Max(c, a)" + OUT, "w1 w2", weights=W | {"c": np.float32(0)}),
    Case("Sum of tensor and constants", IN + "s = Sum(a, c, d)" + OUT, "w1 c d w2", weights=W | {"c": C, "d": S}),
    Case("Mean of tensor and constant", IN + "s = Mean(a, c)" + OUT, "w1 c w2", weights=W | {"c": C}),
    Case(
        "Where with a constant branch",
        IN + "s = Where(m, a, c)" + OUT,
        "w1 c w2",
        inputs="float[N,4,6,6] x, bool[6,6] m",
        weights=W | {"c": ONE},
    ),
    Case(
        "constant normalization of the input",
        "s = Sub(x, m) n = Div(s, d) a = Conv(n, w1) y = Conv(a, w2)",
        "d w1 w2",
        pinned={"s": "graph input"},
        weights=W | {"m": (4, 1, 1), "d": floats(1, 2, 3, 4).reshape(4, 1, 1)},
    ),
    Case(
        "one channel grown to many by a factor",
        "a = Conv(x, w1) s = Mul(a, c) r = Relu(s) y = Conv(r, w2)",
        "w1 c w2",
        weights={"w1": (1, 4, 3, 3), "c": C, "w2": (2, 6, 1, 1)},
    ),
    Case(
        "constant on the batch axis",
        "a = Gemm(x, w1) s = Add(a, c) r = Relu(s) y = Gemm(r, w2)",
        "w1 c w2",
        inputs="float[3,5] x",
        weights={"w1": (5, 7), "c": (3, 1), "w2": (7, 2)},
    ),
]
