"""Move whole tensors so that the steps around them come to lie well on powers of two.

A tensor that moves as a whole by 2^s takes the step of its own range and of the weight and bias that make it along,
and the step of the weights that read it the other way; no noise changes. What changes is how far each step is from a
power of two. Only the fractions of s matter: they are taken in 16ths, and a table says what each range would cost at
each fraction, at the better of the two powers around it. The sum over all ranges is minimised tensor by tensor, from
several starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.ranges.clipping import RangeProblem

__all__ = ["best_shifts"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

PARTS = 16  # of an octave
STARTS, SWEEPS = 8, 20
OCTAVE = float(np.log(2.0))
ROUNDING = 1e-6  # of a 16th, what a step on a power of two may be off


def best_shifts(problem: RangeProblem, labels: Ids, free: Array) -> Array:
    """Return by how much each group should move, (groups,) log-scales.

    Args:
        problem: Solved, every range free.
        labels: (classes,) group of every class.
        free: (groups,) which groups may move.
    """
    moves = problem.moves(labels, free.size)
    groups = np.nonzero(free & moves.any(axis=0))[0]
    # Up: a power of two a little below the step would clip, which costs far more than one a little above it.
    position = np.ceil(PARTS * (problem.logs - np.log(problem.levels)) / OCTAVE - ROUNDING).astype(np.int64)
    costs = _costs(problem)
    moves = moves[:, groups].astype(np.int64)
    rng = np.random.default_rng(0)
    starts = [np.zeros(groups.size, np.int64), *rng.integers(0, PARTS, (STARTS - 1, groups.size))]
    found = [_descend(start, position, moves, costs) for start in starts]
    best = min(found, key=lambda pair: pair[1])[0]
    shifts = np.zeros(free.size)
    shifts[groups] = ((best + PARTS // 2) % PARTS - PARTS // 2) * OCTAVE / PARTS
    return shifts


def _costs(problem: RangeProblem) -> Array:
    """Return the noise of each range, (ranges, PARTS), if its step lay that many 16ths above a power of two."""
    curves = problem.curves(np.arange(-PARTS + 1, PARTS + 1) * OCTAVE / PARTS)
    return np.minimum(curves[:, PARTS - 1 :: -1], curves[:, : PARTS - 1 : -1])


def _descend(shift: Array, position: Ids, moves: Ids, costs: Array) -> tuple[Array, float]:
    """Improve the shift of one group at a time until none can be; return the shifts and what they cost."""
    places = np.arange(position.size)
    shift = shift.copy()
    for _ in range(SWEEPS):
        before = shift.copy()
        for group in range(shift.size):
            touched = np.nonzero(moves[:, group])[0]
            at = position[touched] + moves[touched] @ shift - moves[touched, group] * shift[group]
            trial = (at[:, None] + moves[touched, group][:, None] * np.arange(PARTS)) % PARTS
            shift[group] = int(costs[touched[:, None], trial].sum(axis=0).argmin())
        if np.array_equal(before, shift):
            break
    return shift, float(costs[places, (position + moves @ shift) % PARTS].sum())
