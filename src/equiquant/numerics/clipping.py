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
from scipy import optimize
from threadpoolctl import threadpool_limits

from equiquant.numerics.coupling import LARGEST_LOG_SCALE
from equiquant.numerics.noise import WeightNoise

__all__ = ["ClippedResult", "RangeNoise", "WeightRange", "solve_clipped"]

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
        kind: `activation` or `bias`.
    """

    name: str
    ids: Ids
    gain: Array
    sides: tuple[tuple[Array, Array, Array], ...]
    levels: float
    bound: float = np.inf
    kind: str = "activation"


@dataclass(frozen=True, eq=False)
class ClippedResult:
    """The minimum found.

    Attributes:
        z: (classes,) log-scale of each class.
        ranges: Ends of the range per side of 0, by (kind, name), in the units of the scaled tensor.
        value: J there.
        evaluations: Evaluations of J.
    """

    z: Array
    ranges: Mapping[tuple[str, str], tuple[float, ...]]
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
    lower, upper = np.maximum(bounds[0], -LARGEST_LOG_SCALE), np.minimum(bounds[1], LARGEST_LOG_SCALE)
    lower[0] = upper[0] = 0.0
    z = np.clip(start, lower, upper)
    logs = np.log(np.maximum(_full_ranges(weights, tensors, z), SMALLEST_RANGE))
    limits = np.log([np.inf] * len(weights) + [t.bound for t in tensors for _ in t.sides])
    evaluations, value = 0, np.inf
    for _ in range(STAGES):
        low = np.concatenate([lower, np.minimum(logs + NARROWEST, limits)])
        high = np.concatenate([upper, np.minimum(logs + WIDEST, limits)])
        point = np.clip(np.concatenate([z, logs]), low, high)
        stage = _Stage(weights, tensors, z, logs)
        options = {"maxiter": ITERATIONS, "ftol": TOLERANCE, "maxcor": 30}
        box = optimize.Bounds(low, high)
        with threadpool_limits(1, user_api="blas"):  # vectors this short are slower on several threads
            found = optimize.minimize(stage, point, jac=True, method="L-BFGS-B", bounds=box, options=options)
        evaluations += int(found.nfev)
        z, logs = found.x[: z.size], found.x[z.size :]
        gained, value = value - float(found.fun), float(found.fun)
        if gained < STAGE_GAIN:
            break
    ends = iter(np.exp(logs).tolist())
    ranges = {("weight", w.name): (next(ends),) for w in weights}
    ranges |= {(t.kind, t.name): tuple(next(ends) for _ in t.sides) for t in tensors}
    return ClippedResult(z, ranges, float(np.exp(value)), evaluations)


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
        self._tensors = tensors

    def __call__(self, point: Array) -> tuple[float, Array]:
        z, ends = point[: self._classes], np.exp(point[self._classes :])
        gradient = np.zeros_like(point)
        to_z, to_ends = gradient[: self._classes], gradient[self._classes :]
        value = 0.0
        for place, weight in enumerate(self._weights):
            part, to_ends[place] = weight.add(z, float(ends[place]), to_z)
            value += part
        place = len(self._weights)
        for tensor in self._tensors:
            share = slice(place, place + len(tensor.sides))
            part, to_ends[share] = _tensor(tensor, z, ends[share], to_z)
            value += part
            place = share.stop
        return float(np.log(value)), gradient / value


class _Weight:
    """One weight within a stage: its rounding noise in sums, its large numbers one by one."""

    def __init__(self, weight: WeightRange, z: Array, end: float) -> None:
        noise, coupling = weight.noise, weight.noise.coupling
        self._noise, self._rows, self._columns = noise, coupling.rows, coupling.columns
        scale = np.exp(z[coupling.rows][:, :, None] - z[coupling.columns][:, None, :]).astype(np.float32)
        group, row, column, tap = np.nonzero(weight.size * scale[..., None] > KEEP * end)
        self._size = weight.size[group, row, column, tap].astype(np.float64)
        white, constant = noise.white[group, row], noise.constant[group, row]
        both = white * noise.spread[group, column] + constant * noise.mean[group, column]
        self._gain = both / weight.size.shape[3]
        self._large_rows, self._large_columns = coupling.rows[group, row], coupling.columns[group, column]

    def add(self, z: Array, end: float, gradient: Array) -> tuple[float, float]:
        """Return J and its slope by log end; add its gradient by z."""
        noise, size = self._noise, gradient.size
        power, fade = np.exp(2 * z[self._columns]), np.exp(-2 * z[self._rows])
        step = (end / noise.levels) ** 2 / 12
        by_white = (noise.spread * power).sum(axis=1, keepdims=True)
        by_constant = (noise.mean * power).sum(axis=1, keepdims=True)
        each = step * fade * (noise.white * by_white + noise.constant * by_constant)
        white = step * (fade * noise.white).sum(axis=1, keepdims=True)
        constant = step * (fade * noise.constant).sum(axis=1, keepdims=True)
        total = float(each.sum())
        gradient -= np.bincount(self._rows.reshape(-1), 2 * each.reshape(-1), minlength=size)
        to_columns = 2 * power * (noise.spread * white + noise.mean * constant)
        gradient += np.bincount(self._columns.reshape(-1), to_columns.reshape(-1), minlength=size)
        limit = end * np.exp(z[self._large_columns] - z[self._large_rows])
        over = np.maximum(self._size - limit, 0.0)
        clipped = COHERENCE * self._gain * over
        pull = 2 * clipped * limit
        gradient += np.bincount(self._large_rows, pull, minlength=size)
        gradient -= np.bincount(self._large_columns, pull, minlength=size)
        return total + float(clipped @ over), 2 * total - float(pull.sum())


def _tensor(noise: RangeNoise, z: Array, ends: Array, gradient: Array) -> tuple[float, Array]:
    """Return J of an activation and its slopes by the log ends; add its gradient by z."""
    local = z[noise.ids]
    width = float(ends.sum())
    each = (width / noise.levels) ** 2 / 12 * noise.gain * np.exp(-2 * local)
    value = float(each.sum())
    to_ids = -2 * each
    slopes = 2 * value * ends / width
    fade = np.exp(-local)[:, None]
    for side, ((values, share, _), end) in enumerate(zip(noise.sides, ends, strict=True)):
        limit = end * fade
        off = np.minimum(values, limit) - np.minimum(values, noise.bound)
        weighted = COHERENCE * noise.gain[:, None] * share * off
        pull = 2 * (weighted * np.where(values > limit, limit, 0.0)).sum(axis=1)
        value += float((weighted * off).sum())
        to_ids -= pull
        slopes[side] += pull.sum()
    gradient += np.bincount(noise.ids, to_ids, minlength=gradient.size)
    return value, slopes
