"""Gains of weights against noise in each of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant.backward import measure_gains
from equiquant.io import Runner
from tests.backward.support import Array, noise, parse

NET = """g (float[N,3,9,9] x) => (float[N,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    b = Conv <group = 6, strides = [2, 2], pads = [1, 1, 1, 1]> (r, w2, b2)
    d = Conv <pads = [1, 1, 1, 1]> (b, w3, b3)  f = LeakyRelu <alpha = 0.1> (d)
    e = Conv <dilations = [2, 2], group = 2, pads = [0, 1, 2, 1]> (f, w4, b4)
    p = GlobalAveragePool (e)  q = Flatten (p)  y = Gemm (q, w5) }"""
WEIGHTS = {
    "w1": noise(6, 3, 3, 3, seed=1), "b1": noise(6, seed=2), "w2": noise(6, 1, 3, 3, seed=3), "b2": noise(6, seed=4),
    "w3": noise(4, 6, 1, 1, seed=5), "b3": noise(4, seed=6), "w4": noise(4, 2, 2, 2, seed=7), "b4": noise(4, seed=8),
    "w5": noise(4, 5, seed=9),
}  # fmt: skip
LAYERS = {"a": ("x", "w1", "b1", 1), "b": ("r", "w2", "b2", 6), "d": ("b", "w3", "b3", 1), "e": ("f", "w4", "b4", 2)}
STEP = 1e-3
FEEDS = [{"x": noise(1, 3, 9, 9, seed=k)} for k in range(16)]


def outputs(**changed: Array) -> Array:
    runner = Runner(parse(NET, **WEIGHTS | changed), ["y"])
    return np.concatenate([runner.run(feed)[0] for feed in FEEDS]).astype(np.float64)


def injected(layer: str, mean: Array) -> Array:
    """Noise over signal for a step in the middle tap of each weight, the mean of what it reads taken off the bias."""
    _, name, bias_name, groups = LAYERS[layer]
    weight, bias = WEIGHTS[name], WEIGHTS[bias_name]
    clean = outputs()
    middle = tuple(k // 2 for k in weight.shape[2:])
    found = np.zeros(weight.shape[:2])
    for o, i in np.ndindex(*found.shape):
        w, b = weight.copy(), bias.copy()
        w[(o, i, *middle)] += STEP
        b[o] -= STEP * mean[o * groups // len(found) * weight.shape[1] + i]
        found[o, i] = np.square((outputs(**{name: w, bias_name: b}) - clean) / STEP).sum() / np.square(clean).sum()
    return found.reshape(groups, -1, weight.shape[1])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("centered", [False, True])
def test_gains_are_those_of_injected_noise(layer: str, centered: bool) -> None:
    source = LAYERS[layer][0]
    channels = {"x": 3, "r": 6, "b": 6, "f": 4}[source]
    mean = np.linspace(-0.5, 1.0, channels) if centered else np.zeros(channels)
    gains = measure_gains(parse(NET, **WEIGHTS), FEEDS, {layer: 1, "y": 1}, {source: mean}, draws=64)
    measured, expected = gains[layer].weight, injected(layer, mean)
    assert measured is not None
    assert measured.shape == expected.shape
    ratio = measured / expected
    assert np.exp(np.log(ratio).mean()) == pytest.approx(1.0, abs=0.1)
    assert np.abs(np.log(ratio)).max() < 0.5  # of 64 directions
    assert gains["y"].weight is None


def test_unknown_means_and_computed_weights_have_none() -> None:
    model = parse(NET, **WEIGHTS)
    assert measure_gains(model, FEEDS, {"a": 1})["a"].weight is None
    assert measure_gains(model, FEEDS, {"a": 1}, {"x": np.zeros(7)})["a"].weight is None
    computed: ir.Model = parse(
        "g (float[N,3,9,9] x, float[2,3,1,1] w) => (float[N,2,9,9] y) { a = Conv (x, w)  y = Relu (a) }"
    )
    feeds = [{"x": noise(1, 3, 9, 9), "w": noise(2, 3, 1, 1)}]
    assert measure_gains(computed, feeds, {"a": 1}, {"x": np.zeros(3)})["a"].weight is None
