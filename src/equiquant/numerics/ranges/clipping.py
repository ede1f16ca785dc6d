"""Choose scales and ranges together: minimise the noise of `ranges.noise` over log-scales and the logs of the steps.

`descend` minimises log J in stages; ranges can be fixed between solves, and whole tensors moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from equiquant.numerics.descent import descend
from equiquant.numerics.parallel import parallel
from equiquant.numerics.ranges.chosen import ChosenRanges
from equiquant.numerics.ranges.curve import tensor_curve, weight_curve
from equiquant.numerics.ranges.noise import RangeNoise, WeightRange
from equiquant.numerics.ranges.stage import RangeStage
from equiquant.numerics.scales.coupling import LARGEST_LOG_SCALE

__all__ = ["ClippedResult", "RangeProblem", "solve_clipped"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

STAGES = 4
ITERATIONS = 300
TOLERANCE = 2e-4  # mean decrease of log J per iteration at which a stage ends, 0.001 dB
STAGE_GAIN = 5e-3  # log J of the clipping a stage overlooked, from which on another one is run
NARROWEST = np.log(0.5)  # how far a range may shrink within a stage: what is left out stays unclipped
WIDEST = np.log(1.5)
SMALLEST_RANGE = 1e-12
INSIDE = 0.3  # how far inside the ranges curvature is estimated: where nothing is clipped yet, what will be has none
LEAST_CURVATURE = 2e-3  # of log J: variables that hardly matter count as if they mattered this much


@dataclass(frozen=True, eq=False)
class ClippedResult:
    """The minimum found.

    Attributes:
        z: (classes,) log-scale of each class.
        ranges: The ranges.
        value: J there.
        evaluations: Evaluations of J.
    """

    z: Array
    ranges: ChosenRanges
    value: float
    evaluations: int


def solve_clipped(
    weights: Sequence[WeightRange], tensors: Sequence[RangeNoise], start: Array, bounds: tuple[Array, Array]
) -> ClippedResult:
    """Minimise J over scales and ranges.

    Args:
        weights: The weights.
        tensors: Activations, and biases with a step of their own.
        start: (classes,) log-scales to begin with, e.g. of the global solution without clipping.
        bounds: Smallest and largest log-scale of each class.
    """
    problem = RangeProblem(weights, tensors, start, bounds)
    problem.solve()
    return problem.result()


class RangeProblem:
    """The problem and where its solution stands; ranges can be fixed between solves.

    Args:
        weights: The weights.
        tensors: Activations and biases.
        start: (classes,) log-scales to begin with; ranges begin at the largest values.
        bounds: Smallest and largest log-scale of each class.

    Attributes:
        z: (classes,) log-scales now.
        logs: (ranges,) logs of the range ends now: weights first, then each tensor's sides.
        keys: (kind, name) of each range end.
        levels: (ranges,) steps in each range.
        fixed: (ranges,) ranges that no longer move.
    """

    def __init__(
        self,
        weights: Sequence[WeightRange],
        tensors: Sequence[RangeNoise],
        start: Array,
        bounds: tuple[Array, Array],
    ) -> None:
        self._weights, self._tensors = weights, tensors
        self._bounded = np.isfinite(bounds[0]) | np.isfinite(bounds[1])
        self._lower = np.maximum(bounds[0], -LARGEST_LOG_SCALE)
        self._upper = np.minimum(bounds[1], LARGEST_LOG_SCALE)
        self._lower[0] = self._upper[0] = 0.0
        self.z = np.clip(start, self._lower, self._upper)
        self.logs = np.log(np.maximum(_full_ranges(weights, tensors, self.z), SMALLEST_RANGE))
        self._bounds = np.log([np.inf] * len(weights) + [_bound(t) for t in tensors for _ in t.sides])
        self._bound_ids = np.array([0] * len(weights) + [t.bound_id for t in tensors for _ in t.sides])
        self.keys = [("weight", w.name) for w in weights] + [(t.kind, t.name) for t in tensors for _ in t.sides]
        self.levels = np.array([w.noise.levels for w in weights] + [t.levels for t in tensors for _ in t.sides])
        self.fixed = np.zeros(self.logs.size, dtype=bool)
        self._sides = [(t, side) for t in tensors for side in range(len(t.sides))]
        self._value, self._evaluations = np.inf, 0

    def solve(self, stages: int = STAGES, tolerance: float = TOLERANCE) -> None:
        """Minimise J over what is not fixed, in stages that pick the weights worth watching anew.

        Args:
            stages: At most so many; no more than are needed.
            tolerance: Mean decrease of log J per iteration at which a stage ends.
        """
        limits = self._bounds + self.z[self._bound_ids]
        for left in reversed(range(stages)):
            low = np.where(self.fixed, self.logs, np.minimum(self.logs + NARROWEST, limits))
            high = np.where(self.fixed, self.logs, np.minimum(self.logs + WIDEST, limits))
            box = np.concatenate([self._lower, low]), np.concatenate([self._upper, high])
            stage = RangeStage(self._weights, self._tensors, self.z, self.logs)
            inside = np.concatenate([self.z, self.logs - INSIDE])
            point, self._value, evaluations = descend(
                stage,
                np.clip(np.concatenate([self.z, self.logs]), *box),
                box,
                stage.curvature(inside) + LEAST_CURVATURE,
                iterations=ITERATIONS,
                tolerance=tolerance,
            )
            self._evaluations += evaluations
            self.z, self.logs = point[: self.z.size], point[self.z.size :]
            if not (left and self._unsettled(low)):
                break

    def _unsettled(self, low: Array) -> bool:
        """Return whether a stage kept a free range from shrinking on, or clips weights it had left out."""
        if ((self.logs <= low) & ~self.fixed).any():
            return True
        fresh = RangeStage(self._weights, self._tensors, self.z, self.logs)
        return fresh(np.concatenate([self.z, self.logs]))[0] > self._value + STAGE_GAIN

    def groups(self) -> tuple[Ids, Array]:
        """Return the group of every class, tensors that share classes being one, and which groups may move as a whole.

        A group that holds the pinned class may not; the bound of a Clip that does not yield moves with its tensor.
        """
        pairs = [np.stack([np.full(t.ids.size, t.ids[0]), t.ids]) for t in self._tensors]
        pairs += [np.array([[t.ids[0]], [t.bound_id]]) for t in self._tensors if np.isfinite(_bound(t))]
        pairs += [np.array([[t.ids[0]], [held]]) for t in self._tensors for held in t.held]
        pairs += [np.stack([np.full(ids.size, ids[0]), ids]) for w in self._weights for ids in _sides(w)]
        heads, tails = np.concatenate(pairs, axis=1)
        size = self.z.size
        graph = sparse.coo_matrix((np.ones(heads.size), (heads, tails)), shape=(size, size))
        count, labels = csgraph.connected_components(graph, directed=False)
        free = np.full(count, not np.array_equal(self._lower, self._upper))
        free[labels[0]] = False
        return labels.astype(np.int64), free

    def moves(self, labels: Ids, groups: int) -> Array:
        """Return how each range moves with each group, (ranges, groups): 1, −1 or 0."""
        table = np.zeros((self.logs.size, groups))
        for index, weight in enumerate(self._weights):
            rows, columns = _sides(weight)
            table[index, labels[rows[0]]] += 1
            table[index, labels[columns[0]]] -= 1
        place = len(self._weights)
        for tensor in self._tensors:
            table[place : place + len(tensor.sides), labels[tensor.ids[0]]] = 1
            place += len(tensor.sides)
        return table

    def shift(self, labels: Ids, amount: Array) -> None:
        """Move whole groups by log-scales, with every range they reach; J stays as it is."""
        by_class = amount[labels]
        self.z = self.z + by_class
        self._lower = np.where(self._bounded, self._lower + by_class, self._lower)
        self._upper = np.where(self._bounded, self._upper + by_class, self._upper)
        self.logs = self.logs + self.moves(labels, amount.size) @ amount

    def curve(self, index: int, logs: Array) -> Array:
        """Return the noise of the one weight or tensor behind a range for each log end of that range, (logs,)."""
        if index < len(self._weights):
            return weight_curve(self._weights[index], self.z, np.exp(logs))
        tensor, side = self._sides[index - len(self._weights)]
        ends = np.exp(self.logs[index - side : index - side + len(tensor.sides)])
        return tensor_curve(tensor, self.z, ends, side, np.exp(logs))

    def curves(self, shifts: Array) -> Array:
        """Return the noise of what is behind each range, its log end moved by each shift, (ranges, shifts)."""
        return np.stack(parallel(lambda index: self.curve(index, self.logs[index] + shifts), range(self.logs.size)))

    def fix(self, index: int, log: float) -> None:
        """Set a range and keep it."""
        self.logs[index] = log
        self.fixed[index] = True

    def result(self, costs: Mapping[tuple[str, str], Mapping[int, float]] | None = None) -> ClippedResult:
        """Return where the solution stands, with what steps around it cost; bounds that yield lie at the range ends."""
        ends, z = np.exp(self.logs).tolist(), self.z.copy()
        place = len(self._weights)
        for tensor in self._tensors:
            if tensor.yields:
                z[tensor.bound_id] = self.logs[place] - np.log(tensor.bound)
            place += len(tensor.sides)
        ranges: dict[tuple[str, str], tuple[float, ...]] = {}
        for key, end in zip(self.keys, ends, strict=True):
            ranges[key] = (*ranges.get(key, ()), end)
        costs = dict(costs or {})
        for tensor in self._tensors:
            first = tensor.kind, tensor.name
            for other in ((tensor.kind, name) for name in tensor.also):
                ranges[other] = ranges[first]
                if first in costs:
                    costs[other] = dict.fromkeys(costs[first], 0.0)  # told once
        biases = [t for t in self._tensors if t.kind == "bias"]
        gains = {(t.kind, t.name): tuple((t.gain * np.exp(-2 * z[t.ids])).tolist()) for t in biases}
        chosen = ChosenRanges(ranges, costs, gains)
        return ClippedResult(z, chosen, float(np.exp(self._value)), self._evaluations)


def _sides(weight: WeightRange) -> tuple[Ids, Ids]:
    """Return the classes of a weight's rows and of its columns."""
    coupling = weight.noise.coupling
    return coupling.rows.reshape(-1), coupling.columns.reshape(-1)


def _bound(tensor: RangeNoise) -> float:
    """Return the bound that a range has to keep below while its tensor stands still."""
    return np.inf if tensor.yields else tensor.bound


def _full_ranges(weights: Sequence[WeightRange], tensors: Sequence[RangeNoise], z: Array) -> list[float]:
    """Return the ranges that clip nothing at z."""
    ends = []
    for weight in weights:
        coupling = weight.noise.coupling
        scale = np.exp(z[coupling.rows][:, :, None] - z[coupling.columns][:, None, :])
        ends.append(float((coupling.magnitude * scale).max(initial=0.0)))
    for t in tensors:
        scale = np.exp(z[t.ids])
        ends += [
            min(float((high * scale).max(initial=0.0)), t.bound * float(np.exp(z[t.bound_id])))
            for _, _, high in t.sides
        ]
    return ends
