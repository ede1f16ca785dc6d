"""Positions of power-of-two scales under limits on their sums: the least cost that satisfies all limits together.

A tensor with scale 2^−p has position p. Every variable begins where it is best for itself; each limit says
low ≤ Σ coefficient·p ≤ high. The solution is exact, and found without looking at what is not violated: solve with the
violated limits alone, add those that the solution violates, and go on until none is. Each of these problems is a
relaxation of the whole one, so a solution that violates nothing is the best of all. Limits that share no variable, not
even by way of others, are problems of their own.

A problem is an integer program with one 0-1 unknown for each position a variable may take (HiGHS, by
`scipy.optimize.milp`). A step away from the start counts 1e-5 of the largest cost there besides its own, so that what
costs nothing stays. Where no positions satisfy all limits, the total violation is minimised first, then the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse

__all__ = ["FARTHEST", "Limit", "PositionSolution", "Terms", "solve_positions"]

Array = npt.NDArray[Any]
Terms = tuple[tuple[int, int], ...]
"""(variable, coefficient) pairs."""

LOWEST, HIGHEST = -127, 126  # 2^−p is a normal float32
STEP = 3  # positions to either side of the start that a program begins with
FARTHEST = 40
GAP = 1e-6  # of the cost, within which a solution counts as the best
NODES = 2000  # of the search tree: beyond, the best solution so far stands
STILL = 1e-5  # of the largest cost at the start, a step: above GAP, so that nothing wanders off


@dataclass(frozen=True)
class Limit:
    """low ≤ value ≤ high.

    Attributes:
        values: Sums of positions; the value is the least of them.
        low: Least value, None for none.
        high: Largest value, None for none.
        softer: (sum, offset): the least value is min(low, sum + offset) instead.
    """

    values: tuple[Terms, ...]
    low: int | None = None
    high: int | None = None
    softer: tuple[Terms, int] | None = None

    def value(self, positions: Array) -> int:
        """Return the value at some positions, (variables,)."""
        return min(_sum(terms, positions) for terms in self.values)

    def bounds(self, positions: Array) -> tuple[int | None, int | None]:
        """Return the least and the largest value allowed at some positions."""
        if self.low is None or self.softer is None:
            return self.low, self.high
        return min(self.low, _sum(self.softer[0], positions) + self.softer[1]), self.high

    def holds(self, positions: Array) -> bool:
        """True if the value is within its bounds."""
        value, (low, high) = self.value(positions), self.bounds(positions)
        return (low is None or value >= low) and (high is None or value <= high)

    def variables(self) -> set[int]:
        """Return the variables it speaks of."""
        sums = (*self.values, *((self.softer[0],) if self.softer else ()))
        return {variable for terms in sums for variable, _ in terms}

    def choices(self) -> list[list[tuple[Terms, int]]]:
        """Return what must hold: of each list at least one (sum, least value)."""
        found = []
        if self.low is not None:
            for terms in self.values:
                lows = [(terms, self.low)]
                if self.softer is not None:
                    lows.append((_add(terms, _negated(self.softer[0])), self.softer[1]))
                found.append(lows)
        if self.high is not None:
            found.append([(_negated(terms), -self.high) for terms in self.values])
        return found


@dataclass(frozen=True, eq=False)
class PositionSolution:
    """Where the variables go.

    Attributes:
        positions: (variables,) int64.
        broken: Limits that no positions satisfy together with the others, by index.
        touched: Variables that took part in one.
    """

    positions: Array
    broken: tuple[int, ...]
    touched: frozenset[int]


def solve_positions(
    start: Sequence[int], cost: Callable[[int, int], float], limits: Sequence[Limit], reach: int = FARTHEST
) -> PositionSolution:
    """Return the positions of least total cost that satisfy all limits.

    Args:
        start: Where each variable is best for itself.
        cost: Of a variable at a position, growing with the distance from the best; asked only of variables in reach of
            a violated limit.
        limits: What must hold.
        reach: How far from its start a variable may go at most.
    """
    begin = np.asarray(start, dtype=np.int64)
    windows = _Windows(begin, reach)
    positions = begin.copy()
    active: list[int] = []
    impossible: set[int] = set()
    while True:
        known = set(active)
        violated = {i for i, limit in enumerate(limits) if i not in known and not limit.holds(positions)}
        if not violated:
            break
        active += sorted(violated)
        for part in _components(active, limits):
            if violated.isdisjoint(part):
                continue
            variables = sorted({v for i in part for v in limits[i].variables()})
            found, short = _solve(begin, cost, [limits[i] for i in part], variables, windows)
            positions[variables] = found[variables]
            impossible = impossible.difference(part) | {part[i] for i in short}
    touched = frozenset(v for i in active for v in limits[i].variables())
    return PositionSolution(positions, tuple(sorted(impossible)), touched)


def _components(active: Sequence[int], limits: Sequence[Limit]) -> list[list[int]]:
    """Return the active limits, by index, in groups that share no variable."""
    pairs = [(row, variable) for row, i in enumerate(active) for variable in limits[i].variables()]
    rows, variables = np.array(pairs).T
    graph = sparse.csr_matrix((np.ones(rows.size), (rows, variables)), shape=(len(active), variables.max() + 1))
    count, labels = sparse.csgraph.connected_components(graph @ graph.T, directed=False)
    return [[active[row] for row in np.flatnonzero(labels == k).tolist()] for k in range(count)]


class _Windows:
    """Which positions a variable may take: a few to either side of its start, more where that holds it up."""

    def __init__(self, start: Array, reach: int) -> None:
        self._reach = reach
        self._start = start
        self._low, self._high = start - min(STEP, reach), start + min(STEP, reach)

    def of(self, variable: int) -> range:
        """Return the positions of a variable."""
        return range(max(int(self._low[variable]), LOWEST), min(int(self._high[variable]), HIGHEST) + 1)

    def widen(self, variables: Sequence[int], positions: Array | None) -> bool:
        """Widen the windows whose end a solution has reached, all of them without one; False if none can be."""
        grown = False
        for v in variables:
            down = positions is None or positions[v] == self._low[v]
            up = positions is None or positions[v] == self._high[v]
            below, above = self._start[v] - self._low[v], self._high[v] - self._start[v]
            if down and below < self._reach:
                self._low[v] -= min(2 * below, self._reach - below)
                grown = True
            if up and above < self._reach:
                self._high[v] += min(2 * above, self._reach - above)
                grown = True
        return grown


def _solve(
    start: Array,
    cost: Callable[[int, int], float],
    limits: Sequence[Limit],
    variables: Sequence[int],
    windows: _Windows,
) -> tuple[Array, list[int]]:
    """Solve for the variables of some limits; return all positions, and the limits that had to be broken."""
    while True:
        program = _Program(start, cost, limits, variables, windows)
        found = program.solve()
        if not windows.widen(variables, found):
            break
    if found is not None:
        return found, []
    found = program.closest()
    return found, [i for i, limit in enumerate(limits) if not limit.holds(found)]


class _Program:
    """One integer program: 0-1 unknowns for positions and for choices, and a shortfall for each row."""

    def __init__(
        self,
        start: Array,
        cost: Callable[[int, int], float],
        limits: Sequence[Limit],
        variables: Sequence[int],
        windows: _Windows,
    ) -> None:
        self._start = start
        self._windows = windows
        self._first: dict[int, int] = {}  # variable to its first unknown
        self._table: list[tuple[int, int]] = []  # (variable, position) of each unknown
        for variable in variables:
            self._first[variable] = len(self._table)
            self._table += [(variable, position) for position in windows.of(variable)]
        costs = [cost(variable, position) for variable, position in self._table]
        at_start = [c for c, (v, p) in zip(costs, self._table, strict=True) if p == start[v]]
        unit = max(at_start, default=0.0) or max(costs, default=0.0) or 1.0
        moved = [abs(p - int(start[v])) for v, p in self._table]
        self._costs = np.array(costs) / unit + STILL * np.array(moved)
        self._rows: list[tuple[dict[int, float], float, float]] = []
        self._unknowns = len(self._table)
        self._add_limits(limits)
        self._add_ones()

    def _add_limits(self, limits: Sequence[Limit]) -> None:
        for choice in (c for limit in limits for c in limit.choices()):
            switches = [self._unknown() for _ in choice] if len(choice) > 1 else []
            for index, (terms, least) in enumerate(choice):
                row = self._expand(terms)
                if switches:  # the row need not hold where its switch is off
                    slack = max(least - self._lowest(terms), 0)
                    row[switches[index]] = -float(slack)
                    least -= slack
                self._rows.append((row, float(least), np.inf))
            if switches:
                self._rows.append((dict.fromkeys(switches, 1.0), 1.0, np.inf))
        self._limiting = len(self._rows)

    def _add_ones(self) -> None:
        by_variable: dict[int, dict[int, float]] = {}
        for unknown, (variable, _) in enumerate(self._table):
            by_variable.setdefault(variable, {})[unknown] = 1.0
        self._rows += [(row, 1.0, 1.0) for row in by_variable.values()]

    def _unknown(self) -> int:
        self._unknowns += 1
        return self._unknowns - 1

    def _expand(self, terms: Terms) -> dict[int, float]:
        row: dict[int, float] = {}
        for variable, coefficient in terms:
            unknown = self._first[variable]
            while unknown < len(self._table) and self._table[unknown][0] == variable:
                row[unknown] = row.get(unknown, 0.0) + coefficient * self._table[unknown][1]
                unknown += 1
        return row

    def _lowest(self, terms: Terms) -> int:
        """Return the least a sum can come to."""
        ends = [(c, self._windows.of(v)) for v, c in terms]
        return sum(min(c * w[0], c * w[-1]) for c, w in ends)

    def solve(self) -> Array | None:
        """Return the positions of least cost, None if there are none."""
        cost = np.zeros(self._unknowns)
        cost[: self._costs.size] = self._costs
        found = self._milp(cost, self._matrix(), None)
        return None if found is None else self._positions(found)

    def closest(self) -> Array:
        """Return the positions of least total violation, and among these of least cost."""
        matrix = sparse.hstack([self._matrix(), self._shortfalls()]).tocsr()
        short = np.concatenate([np.zeros(self._unknowns), np.ones(self._limiting)])
        first = self._milp(short, matrix, None)
        assert first is not None  # any positions do, however far off
        cost = np.concatenate([self._costs, np.zeros(short.size - self._costs.size)])
        second = self._milp(cost, matrix, (short, float(np.rint(short @ first))))
        return self._positions(first if second is None else second)

    def _matrix(self) -> sparse.csr_matrix:
        entries = [(i, j, value) for i, (row, _, _) in enumerate(self._rows) for j, value in row.items()]
        rows, columns, values = zip(*entries, strict=True)
        return sparse.csr_matrix((values, (rows, columns)), shape=(len(self._rows), self._unknowns))

    def _shortfalls(self) -> sparse.csr_matrix:
        ones = np.arange(self._limiting)
        return sparse.csr_matrix((np.ones(self._limiting), (ones, ones)), shape=(len(self._rows), self._limiting))

    def _milp(self, cost: Array, matrix: sparse.csr_matrix, cap: tuple[Array, float] | None) -> Array | None:
        lows, highs = np.array([r[1] for r in self._rows]), np.array([r[2] for r in self._rows])
        constraints = [optimize.LinearConstraint(matrix, lows, highs)]
        if cap is not None:
            constraints.append(optimize.LinearConstraint(cap[0][None, :], -np.inf, cap[1] + 0.5))
        whole = np.zeros(cost.size)
        whole[: self._unknowns] = 1
        upper = np.where(whole > 0, 1.0, np.inf)
        result = optimize.milp(
            cost,
            integrality=whole,
            bounds=optimize.Bounds(0, upper),
            constraints=constraints,
            options={"mip_rel_gap": GAP, "node_limit": NODES},
        )
        return None if result.x is None else np.asarray(result.x)

    def _positions(self, solution: Array) -> Array:
        positions = self._start.copy()
        for unknown, (variable, position) in enumerate(self._table):
            if solution[unknown] > 0.5:
                positions[variable] = position
        return positions


def _sum(terms: Terms, positions: Array) -> int:
    return sum(coefficient * int(positions[variable]) for variable, coefficient in terms)


def _negated(terms: Terms) -> Terms:
    return tuple((variable, -coefficient) for variable, coefficient in terms)


def _add(first: Terms, second: Terms) -> Terms:
    sums: dict[int, int] = {}
    for variable, coefficient in (*first, *second):
        sums[variable] = sums.get(variable, 0) + coefficient
    return tuple(sums.items())
