from typing import cast

import numpy as np
import pytest

from equiquant.numerics.descent import descend
from equiquant.numerics.ranges.clipping import RangeProblem, solve_clipped
from equiquant.numerics.ranges.powers_of_two import solve_powers_of_two
from equiquant.numerics.ranges.shifting import best_shifts
from tests.numerics.range_networks import CLASSES, formula, network


def test_descent_finds_the_minimum_of_a_badly_scaled_bowl_in_few_evaluations() -> None:
    weight = 10.0 ** np.arange(-3, 4)
    center = np.linspace(-1, 1, weight.size)

    def bowl(x: np.ndarray) -> tuple[float, np.ndarray]:
        return float((weight * (x - center) ** 2).sum() / 2), weight * (x - center)

    box = (np.full(weight.size, -0.5), np.full(weight.size, 9.0))
    point, value, evaluations = descend(bowl, np.ones(weight.size), box, weight, iterations=100, tolerance=1e-12)
    np.testing.assert_allclose(point, np.maximum(center, -0.5), atol=1e-6)
    assert value == pytest.approx(bowl(point)[0])
    assert evaluations < 30


def problem() -> RangeProblem:
    weights, tensors = network()
    free = (np.full(CLASSES, -np.inf), np.full(CLASSES, np.inf))
    return RangeProblem(weights, tensors, np.zeros(CLASSES), free)


def test_a_solve_lowers_the_noise_and_reports_it() -> None:
    weights, tensors = network()
    free = (np.full(CLASSES, -np.inf), np.full(CLASSES, np.inf))
    start = problem()
    before = formula(weights, tensors, start.z, np.exp(start.logs))
    found = solve_clipped(weights, tensors, np.zeros(CLASSES), free)
    solved = problem()
    solved.solve()
    assert found.value < before
    assert found.value == pytest.approx(formula(weights, tensors, solved.z, np.exp(solved.logs)), rel=1e-6)
    np.testing.assert_array_equal(found.z, solved.z)


def test_fixed_ranges_and_the_pinned_class_stay() -> None:
    solved = problem()
    solved.fix(2, 0.25)
    solved.solve()
    assert solved.logs[2] == 0.25
    assert solved.z[0] == 0.0


def test_curves_pass_through_where_the_solution_stands() -> None:
    weights, tensors = network()
    solved = problem()
    solved.solve(1)
    curves = solved.curves(np.array([-0.5, 0.0, 0.5]))
    one_side = [k for k, key in enumerate(solved.keys) if solved.keys.count(key) == 1]
    first_sides = [k for k, key in enumerate(solved.keys) if solved.keys.index(key) == k and k not in one_side]
    total = curves[one_side + first_sides, 1].sum()
    assert total == pytest.approx(formula(weights, tensors, solved.z, np.exp(solved.logs)), rel=1e-6)


def test_powers_of_two_are_and_their_costs_are_told() -> None:
    weights, tensors = network()
    tensors = [t for t in tensors if len(t.sides) == 1]
    free = (np.full(CLASSES, -np.inf), np.full(CLASSES, np.inf))
    found = solve_powers_of_two(weights, tensors, np.zeros(CLASSES), free)
    assert found.value >= solve_clipped(weights, tensors, np.zeros(CLASSES), free).value * 0.99
    levels = {("weight", w.name): w.noise.levels for w in weights} | {(t.kind, t.name): t.levels for t in tensors}
    for key, (end,) in found.ranges.ends.items():
        exponent = np.log2(end / levels[key])
        assert exponent == pytest.approx(np.rint(exponent), abs=1e-9)
        costs = found.ranges.costs[key]
        assert costs[int(np.rint(exponent))] == min(costs.values())


class OneRange:
    """A tensor that clips as soon as its range shrinks, and whose step lies a little above a power of two."""

    logs, levels = np.array([0.01 * np.log(2.0)]), np.array([1.0])

    def moves(self, labels: np.ndarray, groups: int) -> np.ndarray:
        assert (labels.size, groups) == (1, 1)
        return np.ones((1, 1))

    def curves(self, shifts: np.ndarray) -> np.ndarray:
        return np.where(shifts < -1e-9, 1e3, np.exp(2 * shifts))[None]


def test_a_shift_does_not_leave_a_step_just_above_a_power_of_two() -> None:
    only = OneRange()
    shift = best_shifts(cast("RangeProblem", only), np.array([0]), np.array([True]))
    exponent = float((only.logs[0] + shift[0]) / np.log(2.0))
    up = (np.ceil(exponent) - exponent) * np.log(2.0)
    assert only.curves(np.array([up]))[0, 0] < 1.2
