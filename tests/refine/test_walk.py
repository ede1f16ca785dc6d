"""A walk gives the values of whole runs, sees changes made ahead of it, and stays within its memory."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant.graph.edit import set_initializer
from equiquant.io import Runner
from equiquant.recipe import preset
from equiquant.refine import walk as walk_module
from equiquant.refine.walk import Walk
from tests.qdq.support import noise, parse, quantize

TEXT = """g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y, float[N, 4, 8, 8] z) {
  a = Conv<kernel_shape=[1, 1]>(x, w1)
  r = Relu(a)
  b = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(r, w2)
  s = Add(b, r)
  y = Conv<kernel_shape=[1, 1]>(s, w3)
  c = Constant<value = float[1] {2.0}>()
  z = Mul(s, c)
}"""


def model() -> ir.Model:
    return parse(TEXT, w1=noise(4, 3, 1, 1, seed=1), w2=noise(4, 4, 3, 3, seed=2), w3=noise(4, 4, 1, 1, seed=3))


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": noise(1, 3, 8, 8, seed=10 + k)} for k in range(count)]


def layers(found: ir.Model) -> list[ir.Node]:
    return [n for n in found.graph if n.op_type == "Conv"]


def test_a_walk_gives_the_values_of_whole_runs() -> None:
    exact = model()
    rounded, _ = quantize(exact, preset("a8w8", calibration="minmax"), feeds(3))
    walk = Walk([exact, rounded], feeds(3), 1 << 30, 1, 1)
    for place, twin in zip(layers(exact), layers(rounded), strict=True):
        held = twin.inputs[0].producer().inputs[0]  # type: ignore[union-attr]
        assert held is not None
        whole = [Runner(exact, [place.inputs[0].name], optimize=False), Runner(rounded, [held.name], optimize=False)]  # type: ignore[union-attr, list-item]
        found = list(walk.read([place.inputs[0], twin.inputs[0]]))  # type: ignore[list-item]
        assert len(found) == 3
        for feed, (value, integers) in zip(feeds(3), found, strict=True):
            np.testing.assert_array_equal(value, feed["x"] if place.inputs[0].name == "x" else whole[0].run(feed)[0])  # type: ignore[union-attr]
            np.testing.assert_array_equal(integers, whole[1].run(feed)[0])
            assert integers.dtype == np.uint8


def test_a_walk_sees_constants_changed_ahead_of_it() -> None:
    exact = model()
    walk = Walk([exact], feeds(2), 1 << 30, 1, 1)
    first, second, third = layers(exact)
    list(walk.read([second.inputs[0]]))  # type: ignore[list-item]
    set_initializer(second.inputs[1], np.zeros((4, 4, 3, 3), np.float32))  # type: ignore[arg-type]
    set_initializer(first.inputs[1], np.zeros((4, 3, 1, 1), np.float32))  # type: ignore[arg-type]
    changed = Runner(model(), ["r"], optimize=False)
    for feed, (value,) in zip(feeds(2), walk.read([third.inputs[0]]), strict=True):  # type: ignore[list-item]
        np.testing.assert_array_equal(value, changed.run(feed)[0])  # s = 0 + r; the first layer had run before


def test_memory_limits_the_samples() -> None:
    exact = model()
    walk = Walk([exact], feeds(10), 5 * 3 * 64 * 4, 1, 1)
    assert walk.count == 5
    found = list(walk.read([layers(exact)[2].inputs[0]]))  # type: ignore[list-item]
    assert 1 <= len(found) == walk.count < 5  # 4 channels instead of 3
    assert walk._bytes() <= 5 * 3 * 64 * 4


NARROWING = """g (float[N, 3, 8, 8] x) => (float[N, 16, 2, 2] y) {
  a = Conv<kernel_shape=[1, 1]>(x, w1)
  d = Conv<kernel_shape=[1, 1]>(a, w2)
  p = MaxPool<kernel_shape=[4, 4], strides=[4, 4]>(d)
  b = Conv<kernel_shape=[1, 1]>(p, w2)
  c = Conv<kernel_shape=[1, 1]>(b, w2)
  y = Conv<kernel_shape=[1, 1]>(c, w2)
}"""


def test_samples_that_left_join_again_where_the_network_narrows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "RECENT", 2)
    exact = parse(NARROWING, w1=noise(16, 3, 1, 1, seed=1), w2=noise(16, 16, 1, 1, seed=2))
    rounded, _ = quantize(exact, preset("a8w8", calibration="minmax"), feeds(3))
    walk = Walk([exact, rounded], feeds(10), 10 * 3 * 64 * 4, 1, 1)
    counts = []
    for place, twin in zip(layers(exact)[1:], layers(rounded)[1:], strict=True):
        held = twin.inputs[0].producer().inputs[0]  # type: ignore[union-attr]
        assert held is not None
        whole = [Runner(exact, [place.inputs[0].name], optimize=False), Runner(rounded, [held.name], optimize=False)]  # type: ignore[union-attr, list-item]
        found = list(walk.read([place.inputs[0], twin.inputs[0]]))  # type: ignore[list-item]
        counts.append(len(found))
        for feed, values in zip(feeds(10), found, strict=False):
            for value, runner in zip(values, whole, strict=True):
                np.testing.assert_array_equal(value, runner.run(feed)[0])
    assert counts == [1, 1, 10, 10]


def test_enough_samples_stay_up_to_another_limit() -> None:
    exact = model()
    walk = Walk([exact], feeds(10), 1, 4, 1 << 30)
    assert len(list(walk.read([layers(exact)[2].inputs[0]]))) == 4  # type: ignore[list-item]


def test_one_sample_is_always_kept() -> None:
    exact = model()
    walk = Walk([exact], feeds(3), 1, 1, 1)
    assert len(list(walk.read([layers(exact)[1].inputs[0]]))) == 1  # type: ignore[list-item]
