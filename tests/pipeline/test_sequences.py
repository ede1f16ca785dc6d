"""Sequences between layers: the model is equalized and quantized, and its layers are left as they were rounded."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant import compare, equalize, quantize
from tests.canonical.support import proto
from tests.qdq.support import noise

SPLIT = "s = SplitToSequence<axis = 1>(r, two)"
ENDS = "p = SequenceAt(t, zero) q = SequenceAt(t, one) c = Concat<axis = 1>(q, p) y = Conv(c, w2)"
LOOP = """t = Loop(times, go, s) <
  body = g (int64 i, bool b, seq(float[1,2,6,6]) u) => (bool b2, seq(float[1,2,6,6]) u2) {
  b2 = Identity(b) e = SequenceAt(u, i) f = Relu(e) u2 = SequenceInsert(u, f)
}>"""


@pytest.mark.parametrize("between", ["t = Identity(s)", LOOP])
def test_sequences_are_passed_on(between: str) -> None:
    constants = {"two": 2, "zero": 0, "one": 1, "times": 1, "go": True}
    weights = {"w1": noise(4, 3, 1, 1), "w2": noise(5, 4, 1, 1, seed=1)}
    model = proto(
        f"a = Conv(x, w1) r = Relu(a) {SPLIT} {between} {ENDS}",
        "float[1,3,6,6] x",
        "float[] y",
        weights | {name: np.array(value) for name, value in constants.items() if name in f"{between} {ENDS} {SPLIT}"},
    )
    data = list(noise(8, 1, 3, 6, 6, seed=2))
    result = quantize(model, data=data, preset="a8w8")
    assert compare(model, result.model, data).outputs[0].error.sqnr_db > 25
    assert any("cannot be taken apart" in d.reason for d in result.report.decisions)
    assert compare(model, equalize(model, data=data).model, data).outputs[0].error.sqnr_db > 100
