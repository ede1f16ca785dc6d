"""The −∞ of an attention mask or of a maximum is part of a model; that of a weight is a mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equiquant import equalize, inspect, quantize
from equiquant.errors import ModelError
from equiquant.io import load_model
from equiquant.recipe import preset as recipe
from equiquant.target import survey
from equiquant.verify import equivalence
from tests.qdq.support import noise, parse

INFINITE = np.float32(-np.inf)
MASK = np.triu(np.full((6, 6), INFINITE), 1)
DATA = noise(12, 6, 8, seed=1)
ATTENTION = """
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t = Transpose<perm=[0,2,1]>(k) l = MatMul(q, t)
    {mask} p = Softmax<axis=-1>(m) h = MatMul(p, v) r = Relu(h) y = MatMul(r, wo)
"""
MASKS = {
    "Add": "m = Add(l, mask)",
    "Where": "m = Where(seen, l, low)",
    "Max": "z = Max(l, low) m = Sub(z, one)",
}


def _attention(mask: str) -> Any:
    weights: dict[str, Any] = {
        name: noise(8, 8, seed=i) * np.logspace(0, 1, 8, dtype=np.float32) for i, name in enumerate(("wq", "wk"))
    }
    weights |= {"wv": noise(8, 8, seed=3), "wo": noise(8, 5, seed=4)}
    known: dict[str, Any] = {"mask": MASK, "seen": np.isfinite(MASK), "low": INFINITE, "one": np.float32(1)}
    body = ATTENTION.format(mask=MASKS[mask])
    used = {name: array for name, array in known.items() if f"{name})" in body or f"{name}," in body}
    return parse(f"g (float[N,6,8] x) => (float[] y) {{ {body} }}", **weights, **used)


@pytest.mark.parametrize("mask", [*MASKS])
@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
def test_a_mask_stays_what_it_is(mask: str, preset: str) -> None:
    model = _attention(mask)
    result = quantize(model, data=DATA, preset=preset)
    quality = result.report.quality
    assert quality is not None
    assert quality["outputs"][0]["sqnr_db"] > 8
    assert equivalence(model, load_model(equalize(model, data=DATA).model).model, [{"x": DATA}]).error < 1e-5


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_a_weight_is_refused(number: float) -> None:
    weight = noise(4, 3, 1, 1)
    weight[0, 0] = number
    with pytest.raises(ModelError, match="'w' contains NaN or infinite values"):
        parse("g (float[N,3,5,5] x) => (float[] y) { y = Conv(x, w) }", w=weight)


def test_a_weight_in_a_constant_node_is_refused() -> None:
    with pytest.raises(ModelError, match="'w' contains NaN or infinite values"):
        parse("g (float[N,1] x) => (float[] y) { w = Constant<value = float[1,2] {0, nan}>() y = MatMul(x, w) }")


def test_a_mask_of_nan_is_refused() -> None:
    with pytest.raises(ModelError, match="'m' contains NaN"):
        parse("g (float[2] x) => (float[] y) { y = Add(x, m) }", m=np.array([np.nan, 0], np.float32))


@pytest.mark.parametrize("fill", [-np.inf, -1e9])
@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
def test_what_pads_a_maximum_and_cannot_be_the_pools_own_stays_float(preset: str, fill: float) -> None:
    """The pool's second result counts what is padded."""
    pool = "p = Pad(c, pads, fill) m, i = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)"
    text = f"g (float[N,3,6,6] x) => (float[] y, int64[] i) {{ c = Conv(x, w) {pool} y = Conv(m, v) }}"
    given: dict[str, Any] = {"w": noise(4, 3, 1, 1), "v": noise(2, 4, 1, 1, seed=1), "fill": np.float32(fill)}
    model = parse(text, **given, pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    data = noise(12, 3, 6, 6, seed=2)
    equalize(model, data=data)
    assert inspect(model, data=data).outlook is not None
    quality = quantize(model, data=data, preset=preset).report.quality
    assert quality is not None
    assert quality["outputs"][0]["sqnr_db"] > 20


@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
def test_a_small_negative_number_padded_before_a_maximum_is_a_number(preset: str) -> None:
    text = "c = Conv(x, w) p = Pad(c, pads, fill) m = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p) y = Conv(m, v)"
    given: dict[str, Any] = {"w": noise(4, 3, 1, 1), "v": noise(2, 4, 1, 1, seed=1), "fill": np.float32(-1)}
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    model = parse(f"g (float[N,3,6,6] x) => (float[] y) {{ {text} }}", **given, pads=pads)
    assert {"Pad_p", "MaxPool_m"} <= set(survey(model, recipe(preset)).nodes)
