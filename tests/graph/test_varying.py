"""Values as long as numbers say: what ends by them, counts them or is steered by them; not what sizes say."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import quantize
from equiquant.graph.varying import varying
from tests.qdq.support import noise, parse


def _decoder(more: str) -> ir.Model:
    """A layer, then a loop that adds its result up and writes each sum, while `more` and at most 9 times."""
    text = f"""g (float[1, 8] x) => (float[] words) {{
        h = MatMul (x, w)
        last, words = Loop <body = each (int64 i, bool go, float[1, 8] s) => (bool more, float[] next, float[] word) {{
            next = Add (s, h)
            top = ReduceMax <keepdims = 0> (next)
            more = {more}
            word = Identity (next)
        }}> (times, yes, h)
    }}"""
    counts = {"times": np.array(9, np.int64), "yes": np.array(True)}
    return parse(text, 17, w=noise(8, 8, seed=1), enough=np.array(9, np.float32), **counts)


WHILE_SMALL = "Less (top, enough)"


def _names(model: ir.Model) -> set[str]:
    return {str(value.name) for value in varying(model)}


def test_a_loop_that_ends_by_its_numbers() -> None:
    assert _names(_decoder(WHILE_SMALL)) == {"last", "words"}
    assert _names(_decoder("Identity (go)")) == set()


@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
def test_a_decoder_is_measured_by_what_goes_into_it(preset: str) -> None:
    data = [noise(1, 8, seed=seed) for seed in range(12)]
    report = quantize(_decoder(WHILE_SMALL), data=data, preset=preset).report.to_dict()
    (output,) = report["quality"]["outputs"]
    assert output["name"] == "h"
    assert output["sqnr_db"] > 15


@pytest.mark.parametrize(("steer", "found"), [("ReduceMax <keepdims = 0> (x)", {"r"}), ("Size (x)", set())])
def test_a_range_up_to_a_number_or_a_size(steer: str, found: set[str]) -> None:
    text = f"""g (float[4] x) => (float[] r) {{
        n = {steer}
        f = Cast <to = 1> (n)
        r = Range (zero, f, one)
    }}"""
    assert _names(parse(text, 17, zero=np.array(0, np.float32), one=np.array(1, np.float32))) == found
