"""Tensors that share one range are rounded by the step of the largest of them, and clipped by one range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from equiquant import quantize
from equiquant.equalization.shared_ranges import join_ranges, share_ranges
from equiquant.numerics.ranges.clipping import RangeProblem, solve_clipped
from equiquant.numerics.ranges.noise import RangeNoise
from equiquant.numerics.ranges.powers_of_two import solve_powers_of_two
from equiquant.numerics.scales.noise import NoiseTerm, TensorNoise, objective
from tests.canonical.support import proto, weights

LEVELS = 127.0
GROUPS = [("small", "large")]
STILL = np.zeros(3), np.zeros(3)  # bounds: no scale moves


def term(name: str, ids: list[int], high: list[float], *, kind: str = "activation") -> TensorNoise:
    ones = np.ones(len(ids))
    return TensorNoise(name, np.array(ids), np.array(high), 0 * ones, ones, LEVELS, True, 4 * ones, kind)


def ranged(
    name: str, ids: list[int], high: list[float], *, kind: str = "activation", bound: float = np.inf
) -> RangeNoise:
    ones, top = np.ones(len(ids)), np.array(high)
    values = np.linspace(0.1, 1.0, 8) * top[:, None]
    side = values, np.full(values.shape, 1 / 8), top
    return RangeNoise(name, np.array(ids), ones, 4 * ones, (side,), LEVELS, bound, kind=kind)


def noise(step: float, channels: int) -> float:
    return channels * step**2 / 12


def test_a_small_tensor_is_rounded_by_the_step_it_shares() -> None:
    terms: list[NoiseTerm] = [term("small", [1], [1.0]), term("large", [2, 2], [8.0, 10.0]), term("other", [1], [1.0])]
    small, large, other = share_ranges(terms, GROUPS)
    z = np.zeros(3)
    assert small.exact(z) == pytest.approx(noise(10 / LEVELS, 1))
    assert large.exact(z) == pytest.approx(noise(10 / LEVELS, 2))
    assert other.exact(z) == pytest.approx(noise(1 / LEVELS, 1))
    grown = np.array([0.0, np.log(10.0), 0.0])  # it fills the range, and its noise is a tenth at the output
    assert small.exact(grown) == pytest.approx(noise(1 / LEVELS, 1))
    assert objective([large], grown) == pytest.approx(objective([large], z))


def test_a_bias_of_the_same_name_keeps_its_own_range() -> None:
    terms: list[NoiseTerm] = [term("small", [1], [1.0], kind="bias"), term("large", [2], [10.0])]
    assert share_ranges(terms, GROUPS)[0] is terms[0]
    tensors = [ranged("small", [1], [1.0], kind="bias"), ranged("large", [2], [10.0])]
    assert join_ranges(tensors, GROUPS) == tensors


def test_joined_tensors_get_one_range_that_is_told_for_each() -> None:
    tensors = [ranged("small", [1], [1.0]), ranged("other", [1], [1.0]), ranged("large", [2, 2], [8.0, 10.0])]
    joined = join_ranges(tensors, GROUPS)
    assert [t.name for t in joined] == ["small", "other"]
    ranges = solve_clipped([], joined, np.zeros(3), STILL).ranges
    assert not ranges.costs  # steps are no powers of two
    ends = ranges.ends
    assert ends["activation", "small"] == ends["activation", "large"]
    assert 5.0 < ends["activation", "small"][0] <= 10.0
    assert ends["activation", "other"][0] <= 1.0


def test_the_noise_of_other_steps_is_told_once() -> None:
    joined = join_ranges([ranged("small", [1], [1.0]), ranged("large", [2], [10.0])], GROUPS)
    costs = solve_powers_of_two([], joined, np.zeros(3), STILL).ranges.costs
    assert costs["activation", "small"].keys() == costs["activation", "large"].keys()
    assert all(cost > 0 for cost in costs["activation", "small"].values())
    assert not any(costs["activation", "large"].values())


def test_what_a_clip_cuts_off_is_no_part_of_the_range() -> None:
    (joined,) = join_ranges([ranged("small", [1], [50.0], bound=6.0), ranged("large", [2], [10.0])], GROUPS)
    values, share, largest = joined.sides[0]
    assert largest.tolist() == [6.0, 10.0]
    assert values[0].max() == 6.0
    assert share.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_the_bound_of_a_clip_moves_with_what_shares_its_range() -> None:
    clipped = replace(ranged("small", [1], [50.0], bound=6.0), bound_id=2)
    for tensors in ([clipped], join_ranges([clipped, ranged("large", [1], [10.0])], GROUPS)):
        labels, _ = RangeProblem([], tensors, np.zeros(3), STILL).groups()
        assert labels[1] == labels[2] != labels[0]


def test_tensors_with_one_side_join_those_with_two() -> None:
    both = ranged("large", [2], [10.0])
    two = RangeNoise("large", both.ids, both.gain, both.clip_gain, both.sides * 2, 255.0)
    (joined,) = join_ranges([ranged("small", [1], [1.0]), two], GROUPS)
    assert [largest.tolist() for _, _, largest in joined.sides] == [[1.0, 10.0], [0.0, 10.0]]


def test_a_branch_of_small_values_loses_what_a_concat_takes_from_it() -> None:
    def told(spread: float) -> float:
        """Return the SQNR told of one branch where the other is so many times as large, in the same function."""
        constants = weights(a=(4, 3, 1, 1), b=(4, 3, 1, 1), c=(2, 8, 1, 1))
        constants["b"] = constants["b"] * np.float32(spread)
        constants["c"] = constants["c"] / np.repeat(np.array([1, spread], np.float32), 4)[:, None, None]
        nodes = "p = Conv(x, a) r = Relu(p) q = Conv(x, b) s = Relu(q) t = Concat <axis = 1> (r, s) y = Conv(t, c)"
        model = proto(nodes, "float[N,3,8,8] x", "float[] y", constants)
        data = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
        rows = quantize(model, None, data=data, preset="xint8").report.equalization["noise"]
        (before,) = (row["before"] for row in rows if row["name"] == "r")
        return float(before)

    assert told(1.0) - told(64.0) == pytest.approx(20 * np.log10(64.0), abs=3.0)
