"""Wider floats. Narrower ones need powers of two to be exact: see test_half.py."""

import numpy as np

from tests.equalization.support import Case

CASES = [
    Case(
        "double",
        "a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2)",
        "w1 b1 w2",
        inputs="double[N,4] x",
        outputs="double[] y",
        weights={
            "w1": np.random.default_rng(0).standard_normal((4, 6)),
            "b1": np.arange(1.0, 7.0),
            "w2": np.random.default_rng(1).standard_normal((6, 2)),
        },
        tolerance=1e-7,
    ),
    Case(
        "double in the middle",
        "a = Gemm(x, w1) d = Cast<to=11>(a) b = Gemm(d, w2) f = Cast<to=1>(b) y = Gemm(f, w3)",
        "w1 w2 w3",
        inputs="float[N,4] x",
        weights={"w1": (4, 6), "w2": np.random.default_rng(1).standard_normal((6, 5)), "w3": (5, 2)},
    ),
]
