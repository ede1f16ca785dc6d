"""Minimise the noise of the whole network over the log-scales of its classes: one convex problem.

log J is minimised by L-BFGS-B (bounds hold the channels a Clip must not cut), with the maxima as p-norms of growing p.
What a p-norm leaves out of a weight may become its maximum when the channels move far, so every descent stays within a
trust region around the point it was smoothed at: a descent that lowers the exact J is the next point, one that does not
is tried again in a smaller region. The answer is never worse than the start.
Objective: `scales.noise`. Optimizer: Byrd et al., SIAM J. Sci. Comput. 16 (1995), through scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize
from threadpoolctl import threadpool_limits

from equiquant.numerics.scales.coupling import LARGEST_LOG_SCALE
from equiquant.numerics.scales.noise import NoiseTerm, objective
from equiquant.numerics.scales.smoothing import Smoothed

__all__ = ["NORMS", "GlobalResult", "solve_global"]

Array = npt.NDArray[Any]

NORMS = (8.0, 32.0, 128.0)  # the p-norm of each stage: 128 is within 1% of the maximum for thousands of channels
ITERATIONS = 40  # per descent; each costs a few matrix-vector products
TOLERANCE = 2e-4  # decrease of log J at which a descent ends, 0.001 dB
RADIUS = 1.0  # how far a log-scale moves in one descent: a factor of e, which what was left out seldom makes up for
SHRINK, SMALLEST_RADIUS = 3.0, 0.05
DESCENTS = 30  # of one norm: a guard, as many as the largest log-scale needs three times over
EDGE = 0.99  # of the radius: a descent that stays within found the minimum for its norm
GAIN = 0.01  # decrease of the exact log J below which the next norm's turn comes


@dataclass(frozen=True, eq=False)
class GlobalResult:
    """The minimum found.

    Attributes:
        z: (classes,) float64 log-scale of each class; 0 for class 0.
        value: Exact J at z.
        evaluations: Evaluations of J.
    """

    z: Array
    value: float
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
    best, best_value, evaluations = z, objective(terms, z), 0
    if best_value == 0.0 or start.size == 1:
        return GlobalResult(best, best_value, 0)
    for p in NORMS:
        radius = RADIUS
        smoothed = Smoothed(terms, best, p)
        for _ in range(DESCENTS):
            box = optimize.Bounds(np.maximum(lower, best - radius), np.minimum(upper, best + radius))
            point, count = _descend(smoothed, best, box)
            evaluations += count
            value = objective(terms, point)
            if value >= best_value:
                radius /= SHRINK
                if radius < SMALLEST_RADIUS:
                    break
                continue
            gained, moved = float(np.log(best_value / value)), float(np.abs(point - best).max())
            best, best_value = point, value
            if gained < GAIN or moved < EDGE * radius:
                break
            del smoothed  # before the next is made: of a large network it is large
            smoothed = Smoothed(terms, best, p)
        del smoothed
    return GlobalResult(best, best_value, evaluations)


def _descend(smoothed: Smoothed, start: Array, box: optimize.Bounds) -> tuple[Array, int]:
    """Minimise the smoothed log J from `start`; return the point and the evaluations it took."""

    def log_noise(point: Array) -> tuple[float, Array]:
        value, gradient = smoothed(point)
        return float(np.log(value)), gradient / value

    options = {"maxiter": ITERATIONS, "ftol": TOLERANCE, "maxcor": 10}
    with threadpool_limits(1, user_api="blas"):  # vectors this short are slower on several threads
        found = optimize.minimize(log_noise, start, jac=True, method="L-BFGS-B", bounds=box, options=options)
    return np.asarray(found.x), int(found.nfev)
