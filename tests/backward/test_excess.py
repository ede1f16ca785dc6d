"""What is felt of the part of a tensor beyond given ends, against taking a little of it off."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant.backward import Ends, Gains, measure_gains
from equiquant.io import Runner
from tests.backward.support import Array, disturbed, noise, parse

NET = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2)  y = Conv (c, w3) }"""
WEIGHTS = {
    "w1": noise(6, 3, 3, 3, seed=1), "b1": noise(6, seed=2), "w2": np.abs(noise(4, 6, 3, 3, seed=3)),
    "w3": noise(4, 4, 1, 1, seed=4),
}  # fmt: skip
PART = 1e-3  # of what lies beyond: small enough for first order


def net(**changed: Array) -> ir.Model:
    return parse(NET, **WEIGHTS | changed)


def patches(count: int = 32) -> list[dict[str, Array]]:
    """Images whose brightness hardly varies within one."""
    return [{"x": noise(1, 3, 1, 1, seed=k) + 0.2 * noise(1, 3, 8, 8, seed=100 + k)} for k in range(count)]


def halves(model: ir.Model, name: str, feeds: list[dict[str, Array]]) -> tuple[Ends, list[Array]]:
    runner = Runner(model, [name])
    values = [runner.run(feed)[0] for feed in feeds]
    every = np.concatenate(values)
    low, high = every.min(axis=(0, 2, 3)).clip(max=0), every.max(axis=(0, 2, 3)).clip(min=0)
    return Ends(low / 2.0, high / 2.0), values


def beyond(value: Array, ends: Ends) -> Array:
    low, high = (end.astype(np.float32).reshape(1, -1, 1, 1) for end in (ends.low, ends.high))
    above, below = ends.most
    value = value.clip(-below, above)
    return np.asarray(value - value.clip(low, high))


def taken_off(model: ir.Model, name: str, feeds: list[dict[str, Array]], parts: list[Array]) -> float:
    """Return the noise over the signal at the output, for small parts taken off a tensor."""
    clean, other = Runner(model), Runner(disturbed(model, name, 4))
    power = signal = 0.0
    for feed, part in zip(feeds, parts, strict=True):
        (reference,), (found,) = clean.run(feed), other.run({**feed, "added": (-PART * part).astype(np.float32)})
        power += float(np.square((found - reference).astype(np.float64) / PART).sum())
        signal += float(np.square(reference.astype(np.float64)).sum())
    return power / signal


def white(gains: Gains, parts: list[Array]) -> float:
    """Return the noise of independent errors as strong as these parts."""
    return float(gains.white @ np.square(np.concatenate(parts).astype(np.float64)).mean(axis=(0, 2, 3)))


def decibels(model: ir.Model, name: str, ends: Ends, values: list[Array], draws: int = 64) -> tuple[float, float]:
    """Return by how much more what lies beyond is felt than independent noise: measured, and by taking it off."""
    feeds = patches()
    gains = measure_gains(model, feeds, {name: 1}, ends={name: ends}, draws=draws)[name]
    parts = [beyond(value, ends) for value in values]
    assert gains.cut is not None
    felt = taken_off(model, name, feeds, parts) / white(gains, parts)
    return 10 * float(np.log10(gains.cut)), 10 * float(np.log10(felt))


@pytest.mark.parametrize(("name", "least", "most"), [("a", 3.0, 9.0), ("r", 3.0, 9.0), ("c", -6.0, 0.0)])
def test_what_lies_beyond_is_felt_as_much_as_measured(name: str, least: float, most: float) -> None:
    measured, felt = decibels(net(), name, *halves(net(), name, patches()))
    assert measured == pytest.approx(felt, abs=1.0)
    assert least < felt < most  # whole regions add up, channels of c that are read with both signs cancel


def test_independent_errors_are_felt_once() -> None:
    model = parse("g (float[N,6,4,4] x) => (float[N,6,4,4] y) { a = Relu (x)  y = Mul (a, w) }", w=noise(6, 1, 1))
    feeds = [{"x": noise(1, 6, 4, 4, seed=k)} for k in range(200)]
    ends = Ends(np.zeros(6), np.full(6, 1.0))
    cut = measure_gains(model, feeds, {"a": 1}, ends={"a": ends})["a"].cut
    assert cut == pytest.approx(1.0, abs=0.2)


def test_values_count_as_if_they_lay_where_readers_are_level() -> None:
    model = net()
    ends, values = halves(model, "r", patches())
    limited = Ends(ends.low, ends.high, (float(ends.high.min()) * 1.2, np.inf))
    measured, felt = decibels(model, "r", limited, values)
    assert measured == pytest.approx(felt, abs=1.0)
    assert abs(measured - decibels(model, "r", ends, values)[0]) > 0.1


def test_batches_give_the_same_as_single_samples() -> None:
    ends, _ = halves(net(), "c", patches())
    samples = np.concatenate([feed["x"] for feed in patches()])
    one, many = (
        measure_gains(net(), [{"x": x} for x in np.split(samples, n)], {"c": 1}, ends={"c": ends}, draws=16)["c"].cut
        for n in (32, 4)
    )
    assert one is not None
    assert many == pytest.approx(one, rel=0.2)


def test_nothing_is_told_where_nothing_lies_beyond_or_channels_are_others() -> None:
    feeds = patches(2)
    wide = Ends(np.full(4, -1e6), np.full(4, 1e6))
    assert measure_gains(net(), feeds, {"c": 1})["c"].cut is None
    assert measure_gains(net(), feeds, {"c": 1}, ends={"c": wide})["c"].cut is None
    assert measure_gains(net(), feeds, {"c": 1}, ends={"c": Ends(np.zeros(3), np.zeros(3))})["c"].cut is None
