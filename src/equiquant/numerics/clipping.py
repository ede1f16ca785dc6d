"""The noise of a network whose quantizer may choose ranges smaller than the maximum: rounding against clipping.

Every step is a variable beside the log-scales z. With λ = `COHERENCE` (clipped values are off by one sign),

    weight      Σ h·(d²/12 + λ (|w| − levels·d)₊²),           d = Δw e^{z_in − z_out}
    bias        Σ HB·(d²/12 + λ (|b| − levels·d)₊²),          d = Δb e^{−z_out}
    activation  Σ G·(Δ² e^{−2z}/12 + λ Σ_j share_j (min(u_j, c) − T e^{−z})₊²)

where T is the end of the range on the value's side (Δ = T / levels if symmetric, (T⁺ + T⁻) / levels if not), and c the
bound of the ReLU6 that made the tensor, infinite where there is none: with a scalar Clip, T ≤ c, the range does the
clipping. A channel scaled down under a scalar Clip lets values through that the Clip cut: (min(u, T e^{−z}) −
min(u, c))² counts both. Everything is smooth: L-BFGS-B minimises log J over z and the logs of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse
from scipy.sparse import csgraph
from threadpoolctl import threadpool_limits

from equiquant.numerics.chosen_ranges import ChosenRanges
from equiquant.numerics.coupling import LARGEST_LOG_SCALE
from equiquant.numerics.noise import WeightNoise

__all__ = ["ClippedResult", "RangeNoise", "RangeProblem", "WeightRange", "solve_clipped"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

COHERENCE = 4.0  # λ: errors of one sign add up, and count this much more than rounding errors of the same power
KEEP = 0.3  # weights below this fraction of the range cannot be clipped within a stage, and are left out of it
STAGES = 4
ITERATIONS = 300
TOLERANCE = 1e-5  # decrease of log J per iteration at which a stage ends
STAGE_GAIN = 5e-3  # decrease of log J below which no further stage is run
NARROWEST = np.log(0.5)  # how far a range may shrink within a stage: what is left out stays unclipped
WIDEST = np.log(1.5)
SMALLEST_RANGE = 1e-12


@dataclass(frozen=True, eq=False)
class WeightRange:
    """A weight with one step.

    Attributes:
        noise: Its couplings and gains.
        size: (G, P, Q, K) float32 |weight| at z = 0, kernel taps last.
    """

    noise: WeightNoise
    size: Array

    @property
    def name(self) -> str:
        """The layer."""
        return self.noise.name


@dataclass(frozen=True, eq=False)
class RangeNoise:
    """An activation tensor, or a bias with a step of its own.

    Attributes:
        name: The tensor, or the layer.
        ids: (C,) class of each channel.
        gain: (C,) noise gain G; HB for a bias.
        sides: One or two of (values, share, largest): magnitudes per side of 0, (J,) or (C, J), the share (C, J) of a
            channel's values at each, and its largest (C,). One side if symmetric.
        levels: Steps in the range.
        bound: Bound of the Clip that makes the tensor, infinite where there is none.
        bound_id: Class of that bound.
        kind: `activation` or `bias`.
    """

    name: str
    ids: Ids
    gain: Array
    sides: tuple[tuple[Array, Array, Array], ...]
    levels: float
    bound: float = np.inf
    bound_id: int = 0
    kind: str = "activation"


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
        self._bounds = np.log([np.inf] * len(weights) + [t.bound for t in tensors for _ in t.sides])
        self._bound_ids = np.array([0] * len(weights) + [t.bound_id for t in tensors for _ in t.sides])
        self.keys = [("weight", w.name) for w in weights] + [(t.kind, t.name) for t in tensors for _ in t.sides]
        self.levels = np.array([w.noise.levels for w in weights] + [t.levels for t in tensors for _ in t.sides])
        self.fixed = np.zeros(self.logs.size, dtype=bool)
        self._value, self._evaluations = np.inf, 0
        self._stage = _Stage(weights, tensors, self.z, self.logs)

    def solve(self, stages: int = STAGES, iterations: int = ITERATIONS) -> None:
        """Minimise J over what is not fixed, in stages that pick the weights worth watching anew."""
        self._value = np.inf
        limits = self._bounds + self.z[self._bound_ids]
        for _ in range(stages):
            low = np.where(self.fixed, self.logs, np.minimum(self.logs + NARROWEST, limits))
            high = np.where(self.fixed, self.logs, np.minimum(self.logs + WIDEST, limits))
            low, high = np.concatenate([self._lower, low]), np.concatenate([self._upper, high])
            point = np.clip(np.concatenate([self.z, self.logs]), low, high)
            self._stage = _Stage(self._weights, self._tensors, self.z, self.logs)
            options = {"maxiter": iterations, "ftol": TOLERANCE, "maxcor": 30}
            box = optimize.Bounds(low, high)
            with threadpool_limits(1, user_api="blas"):  # vectors this short are slower on several threads
                found = optimize.minimize(self._stage, point, jac=True, method="L-BFGS-B", bounds=box, options=options)
            self._evaluations += int(found.nfev)
            self.z, self.logs = found.x[: self.z.size], found.x[self.z.size :]
            gained, self._value = self._value - float(found.fun), float(found.fun)
            if gained < STAGE_GAIN:
                break

    def groups(self) -> tuple[Ids, Array]:
        """Return the group of every class, tensors that share classes being one, and which groups may move as a whole.

        A group that holds the pinned class may not; the bound of a Clip belongs to its tensor and moves with it.
        """
        pairs = [np.stack([np.full(t.ids.size, t.ids[0]), t.ids]) for t in self._tensors]
        pairs += [np.array([[t.ids[0]], [t.bound_id]]) for t in self._tensors if np.isfinite(t.bound)]
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
        self._stage = _Stage(self._weights, self._tensors, self.z, self.logs)

    def noise_of(self, index: int, log: float) -> float:
        """Return the noise of the one tensor or weight behind a range, with that range's log end moved."""
        logs = self.logs.copy()
        logs[index] = log
        return self._stage.part(index, self.z, np.exp(logs))

    def fix(self, index: int, log: float) -> None:
        """Set a range and keep it."""
        self.logs[index] = log
        self.fixed[index] = True

    def noise_around(self, shifts: Sequence[float]) -> list[list[float]]:
        """Return the noise of what is behind each range, with that range's log end moved by each shift."""
        stage = _Stage(self._weights, self._tensors, self.z, self.logs + min(shifts))  # keeps all that may be clipped
        found = []
        for index in range(self.logs.size):
            logs = np.repeat(self.logs[None], len(shifts), axis=0)
            logs[:, index] += shifts
            found.append([stage.part(index, self.z, np.exp(row)) for row in logs])
        return found

    def result(self, costs: Mapping[tuple[str, str], Mapping[int, float]] | None = None) -> ClippedResult:
        """Return where the solution stands, with what steps around it cost."""
        ends = np.exp(self.logs).tolist()
        ranges: dict[tuple[str, str], tuple[float, ...]] = {}
        for key, end in zip(self.keys, ends, strict=True):
            ranges[key] = (*ranges.get(key, ()), end)
        return ClippedResult(self.z, ChosenRanges(ranges, costs or {}), float(np.exp(self._value)), self._evaluations)


def _sides(weight: WeightRange) -> tuple[Ids, Ids]:
    """Return the classes of a weight's rows and of its columns."""
    coupling = weight.noise.coupling
    return coupling.rows.reshape(-1), coupling.columns.reshape(-1)


def _full_ranges(weights: Sequence[WeightRange], tensors: Sequence[RangeNoise], z: Array) -> list[float]:
    """Return the ranges that clip nothing at z."""
    ends = []
    for weight in weights:
        coupling = weight.noise.coupling
        scale = np.exp(z[coupling.rows][:, :, None] - z[coupling.columns][:, None, :])
        ends.append(float((coupling.magnitude * scale).max(initial=0.0)))
    for t in tensors:
        scale = np.exp(z[t.ids])
        ends += [min(float((high * scale).max(initial=0.0)), t.bound) for _, _, high in t.sides]
    return ends


class _Stage:
    """log J and its gradient over (z, log ranges), with the weights that may be clipped picked at the start."""

    def __init__(self, weights: Sequence[WeightRange], tensors: Sequence[RangeNoise], z: Array, logs: Array) -> None:
        self._classes = z.size
        self._weights = [_Weight(w, z, float(np.exp(log))) for w, log in zip(weights, logs, strict=False)]
        self._tensors: list[tuple[_Tensor, slice]] = []
        place = len(self._weights)
        for tensor in tensors:
            share = slice(place, place + len(tensor.sides))
            self._tensors.append((_Tensor(tensor, z, np.exp(logs[share])), share))
            place = share.stop

    def __call__(self, point: Array) -> tuple[float, Array]:
        z, ends = point[: self._classes], np.exp(point[self._classes :])
        gradient = np.zeros_like(point)
        to_z, to_ends = gradient[: self._classes], gradient[self._classes :]
        value = 0.0
        for place, weight in enumerate(self._weights):
            part, to_ends[place] = weight.add(z, float(ends[place]), to_z)
            value += part
        for tensor, share in self._tensors:
            part, to_ends[share] = tensor.add(z, ends[share], to_z)
            value += part
        return float(np.log(value)), gradient / value

    def part(self, index: int, z: Array, ends: Array) -> float:
        """Return J of the weight or tensor that one range belongs to."""
        unused = np.zeros(z.size)
        if index < len(self._weights):
            return self._weights[index].add(z, float(ends[index]), unused)[0]
        tensor, share = next(t for t in self._tensors if t[1].start <= index < t[1].stop)
        return tensor.add(z, ends[share], unused)[0]


class _Scatter:
    """Adds values to the places of a vector that ids name, as often as they name them."""

    def __init__(self, ids: Ids) -> None:
        self._places, self._inverse = np.unique(ids.reshape(-1), return_inverse=True)

    def add(self, values: Array, gradient: Array) -> None:
        """Add one value per id."""
        sums = np.bincount(self._inverse.reshape(-1), values.reshape(-1), minlength=self._places.size)
        gradient[self._places] += sums


class _Weight:
    """One weight within a stage: its rounding noise in sums, its large numbers one by one."""

    def __init__(self, weight: WeightRange, z: Array, end: float) -> None:
        noise, coupling = weight.noise, weight.noise.coupling
        self._noise, self._rows, self._columns = noise, coupling.rows, coupling.columns
        self._to_rows, self._to_columns = _Scatter(coupling.rows), _Scatter(coupling.columns)
        scale = np.exp(z[coupling.rows][:, :, None] - z[coupling.columns][:, None, :]).astype(np.float32)
        group, row, column, tap = np.nonzero(weight.size * scale[..., None] > KEEP * end)
        self._size = weight.size[group, row, column, tap].astype(np.float64)
        white, constant = noise.white[group, row], noise.constant[group, row]
        both = white * noise.spread[group, column] + constant * noise.mean[group, column]
        self._gain = both / weight.size.shape[3]
        self._large_rows = group * coupling.rows.shape[1] + row
        self._large_columns = group * coupling.columns.shape[1] + column

    def add(self, z: Array, end: float, gradient: Array) -> tuple[float, float]:
        """Return J and its slope by log end; add its gradient by z."""
        noise = self._noise
        rows, columns = z[self._rows], z[self._columns]
        power, fade = np.exp(2 * columns), np.exp(-2 * rows)
        step = (end / noise.levels) ** 2 / 12
        by_white = (noise.spread * power).sum(axis=1, keepdims=True)
        by_constant = (noise.mean * power).sum(axis=1, keepdims=True)
        each = step * fade * (noise.white * by_white + noise.constant * by_constant)
        white = step * (fade * noise.white).sum(axis=1, keepdims=True)
        constant = step * (fade * noise.constant).sum(axis=1, keepdims=True)
        total = float(each.sum())
        limit = end * np.exp(columns).reshape(-1)[self._large_columns] * np.exp(-rows).reshape(-1)[self._large_rows]
        over = np.maximum(self._size - limit, 0.0)
        clipped = COHERENCE * self._gain * over
        pull = 2 * clipped * limit
        to_rows = np.bincount(self._large_rows, pull, minlength=rows.size) - 2 * each.reshape(-1)
        to_columns = 2 * power * (noise.spread * white + noise.mean * constant)
        self._to_rows.add(to_rows, gradient)
        self._to_columns.add(
            to_columns.reshape(-1) - np.bincount(self._large_columns, pull, minlength=columns.size), gradient
        )
        return total + float(clipped @ over), 2 * total - float(pull.sum())


class _Tensor:
    """One activation or bias within a stage: its rounding noise by channel, its large magnitudes one by one."""

    def __init__(self, noise: RangeNoise, z: Array, ends: Array) -> None:
        self._ids, self._gain, self._levels = noise.ids, noise.gain, noise.levels
        self._scatter = _Scatter(noise.ids)
        fade = np.exp(-z[noise.ids])[:, None]
        self._sides = []
        for (values, share, _), end in zip(noise.sides, ends, strict=True):
            table = np.broadcast_to(values, share.shape)
            channel, place = np.nonzero((share > 0) & (table > KEEP * np.minimum(end * fade, noise.bound)))
            size = table[channel, place]
            weight = COHERENCE * noise.gain[channel] * share[channel, place]
            self._sides.append((channel, size, weight, np.minimum(size, noise.bound)))

    def add(self, z: Array, ends: Array, gradient: Array) -> tuple[float, Array]:
        """Return J and its slopes by the log ends; add its gradient by z."""
        local = z[self._ids]
        fade = np.exp(-local)
        width = float(ends.sum())
        each = (width / self._levels) ** 2 / 12 * self._gain * fade**2
        value = float(each.sum())
        to_ids = -2 * each
        slopes = 2 * value * ends / width
        for side, ((channel, size, weight, kept), end) in enumerate(zip(self._sides, ends, strict=True)):
            limit = end * fade[channel]
            off = np.minimum(size, limit) - kept
            weighted = weight * off
            pull = np.bincount(channel, 2 * weighted * np.where(size > limit, limit, 0.0), minlength=local.size)
            value += float(weighted @ off)
            to_ids -= pull
            slopes[side] += pull.sum()
        self._scatter.add(to_ids, gradient)
        return value, slopes
