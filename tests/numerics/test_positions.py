"""Positions under limits: exact against trying everything, and nothing touched that need not be."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from equiquant.numerics import positions
from equiquant.numerics.positions import Limit, Terms, solve_positions

REACH = 2


def _random(seed: int) -> tuple[list[int], np.ndarray, list[Limit]]:
    """Return the start, the cost of offsets −2 to 2, (variables, 5), and limits of every kind."""
    rng = np.random.default_rng(seed)
    count = 5
    start = rng.integers(-3, 4, count).tolist()
    table = rng.exponential(size=(count, 5))
    table[:, 2] = 0.0  # nothing is better than the start

    def terms() -> Terms:
        chosen = rng.choice(count, 3, replace=False)
        return tuple((int(v), int(c)) for v, c in zip(chosen, rng.choice([-1, 1], 3), strict=True))

    limits = []
    for kind in range(4):
        low = int(rng.integers(-4, 3))
        high = None if rng.random() < 0.3 else low + int(rng.integers(0, 4))
        values = (terms(),) if kind != 1 else (terms(), terms())
        softer = (terms(), int(rng.integers(-3, 3))) if kind == 2 else None
        limits.append(Limit(values, low, high, softer))
    return start, table, limits


def _brute(start: list[int], table: np.ndarray, limits: list[Limit]) -> float | None:
    best = None
    for offsets in itertools.product(range(-2, 3), repeat=len(start)):
        positions = np.array(start) + offsets
        if all(limit.holds(positions) for limit in limits):
            cost = sum(table[v, o + 2] for v, o in enumerate(offsets))
            best = cost if best is None else min(best, cost)
    return best


def _cost(start: list[int], table: np.ndarray) -> Callable[[int, int], float]:
    return lambda variable, position: float(table[variable, position - start[variable] + 2])


@pytest.mark.parametrize("seed", range(30))
def test_the_solution_is_the_best_of_all(seed: int) -> None:
    start, table, limits = _random(seed)
    cost = _cost(start, table)
    found = solve_positions(start, cost, limits, REACH)
    expected = _brute(start, table, limits)
    if expected is None:
        assert found.broken
        return
    assert not found.broken
    assert all(limit.holds(found.positions) for limit in limits)
    total = sum(cost(v, int(p)) for v, p in enumerate(found.positions))
    assert total == pytest.approx(expected, abs=1e-6)


def test_the_random_problems_are_of_both_kinds() -> None:
    outcomes = [_brute(*_random(seed)) for seed in range(30)]
    assert 3 < sum(o is None for o in outcomes) < 27
    assert any(o is not None and o > 0 for o in outcomes)


def test_nothing_is_solved_or_asked_where_nothing_is_violated() -> None:
    def forbidden(variable: int, position: int) -> float:
        raise AssertionError

    chain = [Limit((((k, 1), (k + 1, -1)),), -1, 1) for k in range(500)]
    found = solve_positions([7] * 501, forbidden, chain)
    assert not found.touched
    assert found.positions.tolist() == [7] * 501


def test_only_the_neighbourhood_of_a_violation_is_touched() -> None:
    chain = [Limit((((k, 1), (k + 1, -1)),), -1, 1) for k in range(500)]
    start = [0] * 501
    start[250] = 3
    found = solve_positions(start, lambda v, p: abs(p - start[v]) + 0.1 * v / 501, chain)
    assert all(limit.holds(found.positions) for limit in chain)
    assert len(found.touched) < 12
    assert np.abs(found.positions - start).sum() == 2  # the one outlier comes down to 1


def test_a_far_violation_is_reached() -> None:
    found = solve_positions(
        [0, 30], lambda v, p: float(p * p if v == 0 else 4 * (p - 30) ** 2), [Limit((((0, 1), (1, -1)),), 0, None)]
    )
    assert not found.broken
    assert found.positions.tolist() == [24, 24]


def test_limits_that_contradict_each_other_are_named_and_come_closest() -> None:
    high = Limit((((0, 1),),), 5, None)
    low = Limit((((0, 1),),), None, 2)
    other = Limit((((1, 1),),), 1, None)
    found = solve_positions([3, 0], lambda v, p: abs(p - [3, 0][v]), [high, low, other])
    assert found.positions.tolist() in ([p, 1] for p in (2, 3, 4, 5))  # 3 steps short, however shared
    assert set(found.broken) <= {0, 1}
    assert found.broken
    assert found.positions[1] == 1  # what can be met is met


def test_the_softer_bound_is_the_documented_one() -> None:
    bias = Limit((((0, 1), (1, 1), (3, -1)),), 0, 15, (((0, 1), (1, 1), (2, -1)), -16))
    for cut, least in ((0, -16), (10, -6), (16, 0), (20, 0)):
        positions = np.array([cut, 0, 0, 0])
        assert bias.bounds(positions) == (min(0, -(24 - (8 + cut))), 15) == (least, 15)


def test_limits_that_share_no_variable_are_problems_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One problem with an awkward part after the other: both together take no larger programs than each alone."""
    sizes: list[int] = []
    solve = positions._Program.solve

    def watched(program: positions._Program) -> np.ndarray | None:
        sizes.append(len(program._first))
        return solve(program)

    monkeypatch.setattr(positions._Program, "solve", watched)
    parts = [_random(seed) for seed in (3, 5, 8)]
    start = [s for part in parts for s in part[0]]
    table = np.concatenate([part[1] for part in parts])
    limits = [
        Limit(
            tuple(tuple((v + 5 * k, c) for v, c in terms) for terms in limit.values),
            limit.low,
            limit.high,
            None if limit.softer is None else (tuple((v + 5 * k, c) for v, c in limit.softer[0]), limit.softer[1]),
        )
        for k, part in enumerate(parts)
        for limit in part[2]
    ]
    together = solve_positions(start, _cost(start, table), limits, REACH)
    assert max(sizes) <= 5
    alone = [solve_positions(part[0], _cost(part[0], part[1]), part[2], REACH) for part in parts]
    assert together.positions.tolist() == [p for found in alone for p in found.positions.tolist()]
    assert together.broken == tuple(i + 4 * k for k, found in enumerate(alone) for i in found.broken)


def test_what_costs_nothing_stays_where_it_is() -> None:
    """Chains of limits over variables without a cost: the fewest steps that will do, not any that will do."""
    limits = [Limit((((index, 1), (index + 1, -1)),), 2) for index in range(12)]
    found = solve_positions([0] * 13, lambda variable, position: float(variable == 6) * abs(position), limits)
    assert found.positions.tolist() == [2 * (6 - index) for index in range(13)]
