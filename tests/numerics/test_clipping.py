"""Ranges that may clip: what a Clip behind them does, and how a bound gets out of their way."""

from dataclasses import replace

import numpy as np
import pytest

from equiquant.numerics.ranges.clipping import solve_clipped
from equiquant.numerics.ranges.curve import tensor_curve
from equiquant.numerics.ranges.noise import COHERENCE, RangeNoise
from equiquant.numerics.ranges.powers_of_two import solve_powers_of_two
from equiquant.numerics.ranges.stage import RangeStage

BOUND, LEVELS = 6.0, 127.0
Z = np.array([0.0, 0.3, -0.2, 0.1])  # class 0, two channels, the bound
SIZES = np.array([1.0, 3.0, 5.0, 8.0])
SHARE = np.array([[0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])


def clipped_tensor() -> RangeNoise:
    side = (SIZES, SHARE, np.array([8.0, 8.0]))
    gain = np.array([1.0, 2.0])
    return RangeNoise("x", np.array([1, 2]), gain, COHERENCE * gain, (side,), LEVELS, BOUND, 3)


def expected(end: float, bound: float) -> float:
    """The noise of values that meet first a Clip at `bound`, then a range, in the units of the scaled tensor."""
    total = 0.0
    for channel, gain in enumerate((1.0, 2.0)):
        scale = np.exp(Z[1 + channel])
        off = np.minimum(SIZES, min(end, bound) / scale) - np.minimum(SIZES, BOUND)
        total += gain * ((end / LEVELS / scale) ** 2 / 12 + COHERENCE * float(SHARE[channel] @ off**2))
    return total


def noise(tensor: RangeNoise, end: float) -> float:
    """The noise as a whole network's evaluation gives it, which the curve over ends has to match."""
    value = float(np.exp(RangeStage([], [tensor], Z, np.log([end]))(np.append(Z, np.log(end)))[0]))
    assert tensor_curve(tensor, Z, np.array([end]), 0, np.array([end]))[0] == pytest.approx(value)
    return value


@pytest.mark.parametrize("end", [4.0, 6.5, 9.0])
def test_beyond_the_clip_a_range_clips_nothing_more(end: float) -> None:
    assert noise(clipped_tensor(), end) == pytest.approx(expected(end, BOUND * float(np.exp(Z[3]))))


def test_a_bound_that_yields_leaves_the_clipping_to_the_range() -> None:
    assert noise(replace(clipped_tensor(), yields=True), 9.0) == pytest.approx(expected(9.0, np.inf))


@pytest.mark.parametrize("end", [4.0, 6.5, 9.0])
@pytest.mark.parametrize("yields", [False, True])
def test_the_gradient_is_that_of_the_noise(end: float, yields: bool) -> None:
    point = np.append(Z, np.log(end))
    stage = RangeStage([], [replace(clipped_tensor(), yields=yields)], Z, point[Z.size :])
    _, gradient = stage(point)
    for index in (1, 2, Z.size):
        moved = [point.copy() for _ in range(2)]
        moved[0][index] -= 1e-5
        moved[1][index] += 1e-5
        low, high = (stage(p)[0] for p in moved)
        assert gradient[index] == pytest.approx((high - low) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("powers", [False, True])
def test_a_bound_that_yields_lies_at_the_end_of_its_range(powers: bool) -> None:
    solver = solve_powers_of_two if powers else solve_clipped
    free = np.full(Z.size, -np.inf), np.full(Z.size, np.inf)
    result = solver([], [replace(clipped_tensor(), yields=True)], np.zeros(Z.size), free)
    assert BOUND * np.exp(result.z[3]) == pytest.approx(result.ranges.ends["activation", "x"][0])
