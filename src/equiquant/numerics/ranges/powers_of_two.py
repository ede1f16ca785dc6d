"""Scales that land on powers of two: the noise problem of `clipping` with every step 2^k.

From the continuous solution the steps are fixed a share at a time, activations first, then weights and biases, those
nearest to a power of two before the others. Each goes to the neighbour, below or above, that adds less noise where the
channels stand; then everything not yet fixed is solved again, so that the channels move to what the fixed steps hold
well. Before that whole tensors move (`shifting`), which changes no noise, so that the steps that matter most are near
powers of two already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.ranges.clipping import TOLERANCE, ClippedResult, RangeProblem
from equiquant.numerics.ranges.noise import RangeNoise, WeightRange
from equiquant.numerics.ranges.shifting import best_shifts

__all__ = ["solve_powers_of_two"]

Array = npt.NDArray[Any]

ROUGH = 5e-4  # mean decrease of log J per iteration at which every solve but the last ends
AROUND = 4  # steps to either side of the chosen one whose noise is told
SHARES = (0.5, 0.75, 1.0)  # of the weights and biases, fixed before each of the last solves


def solve_powers_of_two(
    weights: Sequence[WeightRange], tensors: Sequence[RangeNoise], start: Array, bounds: tuple[Array, Array]
) -> ClippedResult:
    """Minimise J over scales and power-of-two steps.

    Args:
        weights: The weights.
        tensors: Activations, symmetric, and biases with a step of their own.
        start: (classes,) log-scales to begin with.
        bounds: Smallest and largest log-scale of each class.
    """
    problem = RangeProblem(weights, tensors, start, bounds)
    problem.solve(tolerance=ROUGH)
    labels, free = problem.groups()
    problem.shift(labels, best_shifts(problem, labels, free))
    activations = np.array([kind == "activation" for kind, _ in problem.keys])
    _fix(problem, np.nonzero(activations)[0])
    problem.solve(1, ROUGH)
    others = np.nonzero(~activations)[0]
    distance = np.abs(_exponents(problem)[others] - np.rint(_exponents(problem)[others]))
    order = others[np.argsort(distance)]
    for share in SHARES:
        count = int(np.ceil(share * order.size))
        _fix(problem, order[:count][~problem.fixed[order[:count]]])
        problem.solve(1, ROUGH if share < 1 else TOLERANCE)
    return problem.result(_costs(problem))


def _costs(problem: RangeProblem) -> dict[tuple[str, str], dict[int, float]]:
    """Return the noise of each tensor with the powers of two around its step."""
    steps = np.arange(-AROUND, AROUND + 1)
    noise = problem.curves(steps * np.log(2.0)).tolist()
    here = np.rint(_exponents(problem)).astype(int).tolist()
    return {
        key: dict(zip((steps + exponent).tolist(), row, strict=True))
        for key, exponent, row in zip(problem.keys, here, noise, strict=True)
    }


def _exponents(problem: RangeProblem) -> Array:
    return np.asarray((problem.logs - np.log(problem.levels)) / np.log(2.0))


def _fix(problem: RangeProblem, which: Array) -> None:
    """Fix ranges at the better of the two powers of two around them."""
    exponents = _exponents(problem)
    for index in which.tolist():
        around = np.array([np.floor(exponents[index]), np.ceil(exponents[index])])
        logs = np.log(problem.levels[index]) + around * np.log(2.0)
        problem.fix(index, float(logs[problem.curve(index, logs).argmin()]))
