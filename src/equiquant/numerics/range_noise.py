"""The noise of a network whose quantizer may choose ranges smaller than the maximum: rounding against clipping.

Every step is a variable beside the log-scales z. With λ = `COHERENCE` (clipped values are off by one sign),

    weight      Σ h·(d²/12 + λ (|w| − levels·d)₊²),           d = Δw e^{z_in − z_out}
    bias        Σ HB·(d²/12 + λ (|b| − levels·d)₊²),          d = Δb e^{−z_out}
    activation  Σ G·(Δ² e^{−2z}/12 + λ Σ_j share_j (min(u_j, c) − T e^{−z})₊²)

where T is the end of the range on the value's side (Δ = T / levels if symmetric, (T⁺ + T⁻) / levels if not), and c the
bound of the ReLU6 that made the tensor, infinite where there is none. A channel scaled down under a scalar Clip lets
values through that the Clip cut: (min(u, T e^{−z}) − min(u, c))² counts both. A range that reaches beyond the scalar
Clip, whose bound is c e^{z_c}, clips nothing more: there T stands for the lesser of the two. Everything else is smooth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.noise import WeightNoise

__all__ = ["RangeNoise", "RangeStage", "WeightRange"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

COHERENCE = 4.0  # λ: errors of one sign add up, and count this much more than rounding errors of the same power
KEEP = 0.3  # weights below this fraction of the range cannot be clipped within a stage, and are left out of it


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
        yields: The bound may move by itself, and will be out of the range's way.
        kind: `activation` or `bias`.
    """

    name: str
    ids: Ids
    gain: Array
    sides: tuple[tuple[Array, Array, Array], ...]
    levels: float
    bound: float = np.inf
    bound_id: int = 0
    yields: bool = False
    kind: str = "activation"


class RangeStage:
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
        """Return log J and its gradient at (z, log range ends)."""
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
        self._reach = np.inf if noise.yields else noise.bound * float(np.exp(z[noise.bound_id]))
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
            limit = min(end, self._reach) * fade[channel]
            off = np.minimum(size, limit) - kept
            weighted = weight * off
            pull = np.bincount(channel, 2 * weighted * np.where(size > limit, limit, 0.0), minlength=local.size)
            value += float(weighted @ off)
            to_ids -= pull
            if end < self._reach:
                slopes[side] += pull.sum()
        self._scatter.add(to_ids, gradient)
        return value, slopes
