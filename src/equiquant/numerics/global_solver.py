"""Minimise the noise of the whole network over the log-scales of its classes: one convex problem.

log J is minimised by L-BFGS-B (bounds hold the channels a Clip must not cut), with the maxima as p-norms of growing p;
each stage starts where the last ended. The exact J decides which stage's result is kept, so that the answer is never
worse than the start. Objective: `noise`. Optimizer: Byrd et al., SIAM J. Sci. Comput. 16 (1995), through scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize
from threadpoolctl import threadpool_limits

from equiquant.numerics.coupling import LARGEST_LOG_SCALE
from equiquant.numerics.noise import NoiseTerm, objective
from equiquant.numerics.smoothing import Smoothed

__all__ = ["NORMS", "GlobalResult", "solve_global"]

Array = npt.NDArray[Any]

NORMS = (8.0, 32.0, 128.0)  # the p-norm of each stage: 128 is within 1% of the maximum for thousands of channels
ITERATIONS = 150  # per stage; each costs a few matrix-vector products
TOLERANCE = 2e-4  # decrease of log J at which a stage ends, 0.001 dB
RESTARTS = 4  # of one stage with fresh weights, while each
RESTART_GAIN = 0.03  # gains this much: entries left out at the start may have become the largest


@dataclass(frozen=True, eq=False)
class GlobalResult:
    """The minimum found.

    Attributes:
        z: (classes,) float64 log-scale of each class; 0 for class 0.
        value: Exact J at z.
        start: Exact J at the start.
        evaluations: Evaluations of J.
    """

    z: Array
    value: float
    start: float
    evaluations: int


def solve_global(terms: Sequence[NoiseTerm], start: Array, bounds: tuple[Array, Array] | None = None) -> GlobalResult:
    """Minimise J from `start`.

    Args:
        terms: The terms of J.
        start: (classes,) where to begin, e.g. the pairwise solution; entry 0 stays 0.
        bounds: Smallest and largest log-scale of each class, (classes,) each.
    """
    lower, upper = bounds if bounds is not None else (np.full(start.size, -np.inf), np.full(start.size, np.inf))
    lower, upper = np.maximum(lower, -LARGEST_LOG_SCALE), np.minimum(upper, LARGEST_LOG_SCALE)
    lower[0] = upper[0] = 0.0
    z = np.clip(start, lower, upper)
    first = best_value = objective(terms, z)
    best, evaluations = z, 0
    if first == 0.0 or start.size == 1:
        return GlobalResult(z, first, first, 0)
    box = optimize.Bounds(lower, upper)
    for p in NORMS:
        for _ in range(RESTARTS if p == NORMS[0] else 1):
            point, count = _descend(Smoothed(terms, best, p), best, box)
            evaluations += count
            value = objective(terms, point)
            gained = value < best_value * (1 - RESTART_GAIN)
            if value < best_value:
                best, best_value = point, value
            if not gained:
                break
    return GlobalResult(best, best_value, first, evaluations)


def _descend(smoothed: Smoothed, start: Array, box: optimize.Bounds) -> tuple[Array, int]:
    """Minimise the smoothed log J from `start`; return the point and the evaluations it took."""

    def log_noise(point: Array) -> tuple[float, Array]:
        value, gradient = smoothed(point)
        return float(np.log(value)), gradient / value

    options = {"maxiter": ITERATIONS, "ftol": TOLERANCE, "maxcor": 10}
    with threadpool_limits(1, user_api="blas"):  # vectors this short are slower on several threads
        found = optimize.minimize(log_noise, start, jac=True, method="L-BFGS-B", bounds=box, options=options)
    return np.asarray(found.x), int(found.nfev)
