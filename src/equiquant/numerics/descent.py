"""Minimise a smooth function within bounds by L-BFGS-B over variables scaled to like curvature.

Variables whose second derivatives differ by orders of magnitude (a range moves all weights of a layer, a channel few)
cost L-BFGS many iterations to learn; divided by the root of an estimate of their curvature they cost few.
Optimizer: Byrd et al., SIAM J. Sci. Comput. 16 (1995), through scipy. Diagonal scaling: Nocedal and Wright, Numerical
Optimization, 2006, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize
from threadpoolctl import threadpool_limits

__all__ = ["descend"]

Array = npt.NDArray[Any]

MEMORY = 10  # pairs L-BFGS remembers: more cost time in proportion, and gain nothing here
WINDOW = 10  # iterations over which progress is measured: single ones may stall


class _Progress:
    """Ends the descent when the last `WINDOW` iterations gained too little."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._values: list[float] = []

    def __call__(self, intermediate_result: optimize.OptimizeResult) -> None:
        self._values.append(float(intermediate_result.fun))
        past = self._values[-1 - WINDOW :]
        if len(past) > WINDOW and past[0] - past[-1] < WINDOW * self._tolerance:
            raise StopIteration


def descend(
    function: Callable[[Array], tuple[float, Array]],
    start: Array,
    box: tuple[Array, Array],
    curvature: Array,
    *,
    iterations: int,
    tolerance: float,
) -> tuple[Array, float, int]:
    """Minimise from `start`; return the point, the function there, and the evaluations it took.

    Args:
        function: Returns the value and the gradient, (n,).
        start: (n,) a point within the box.
        box: Smallest and largest value of each variable, (n,) each.
        curvature: (n,) estimate of the second derivatives, positive.
        iterations: At most so many.
        tolerance: Mean decrease per iteration at which to stop.
    """
    unit = 1 / np.sqrt(curvature)

    def scaled(point: Array) -> tuple[float, Array]:
        value, gradient = function(point * unit)
        return value, gradient * unit

    with threadpool_limits(1, user_api="blas"):  # vectors this short are slower on several threads
        found = optimize.minimize(
            scaled,
            start / unit,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip((box[0] / unit).tolist(), (box[1] / unit).tolist(), strict=True)),
            callback=_Progress(tolerance),
            options={"maxiter": iterations, "ftol": 0.0, "maxcor": MEMORY},
        )
    return np.clip(found.x * unit, *box), float(found.fun), int(found.nfev)
