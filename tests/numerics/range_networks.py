"""A small network in the terms of `numerics.ranges.noise`, and J written term by term, as its docstring has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.ranges.noise import COHERENCE, RangeNoise, WeightRange
from equiquant.numerics.scales.coupling import Coupling
from equiquant.numerics.scales.noise import WeightNoise

Array = npt.NDArray[Any]
CLASSES = 12


def weight(rng: np.random.Generator, groups: int, outputs: int, inputs: int, taps: int) -> WeightRange:
    """Return a grouped weight between random classes."""
    size = np.abs(rng.standard_normal((groups, outputs, inputs, taps))).astype(np.float32)
    rows, columns = rng.integers(0, CLASSES, (groups, outputs)), rng.integers(0, CLASSES, (groups, inputs))
    white, constant = rng.random((groups, outputs)), rng.random((groups, outputs))
    spread, mean = taps * rng.random((groups, inputs)), taps * rng.random((groups, inputs))
    coupling = Coupling(size.max(axis=3), rows, columns)
    return WeightRange(WeightNoise(f"w{groups}", coupling, white, constant, spread, mean, 127.0), size)


def tensor(
    rng: np.random.Generator, channels: int, bins: int, sides: int, bound: float = np.inf, *, shared: bool = False
) -> RangeNoise:
    """Return a tensor; its magnitudes are the same for all channels if `shared`."""
    made = []
    for _ in range(sides):
        values = np.sort(4 * rng.random(bins if shared else (channels, bins)), axis=-1)
        share = rng.random((channels, bins)) * (rng.random((channels, bins)) > 0.2)
        made.append((values, share / bins, np.broadcast_to(values, share.shape).max(axis=1)))
    ids = rng.integers(0, CLASSES, channels)
    gain, clip_gain = rng.random(channels), COHERENCE * rng.random(channels)
    return RangeNoise(f"t{channels}x{bins}", ids, gain, clip_gain, tuple(made), 255.0 / (3 - sides), bound, 1)


def network(seed: int = 0) -> tuple[list[WeightRange], list[RangeNoise]]:
    """Return a dense, a grouped and a depthwise weight, and tensors of one side and two, some of them clipped."""
    rng = np.random.default_rng(seed)
    weights = [weight(rng, 1, 5, 4, 1), weight(rng, 2, 3, 2, 9), weight(rng, 6, 1, 1, 9)]
    tensors = [
        tensor(rng, 5, 20, 1),
        tensor(rng, 6, 20, 2),
        tensor(rng, 4, 20, 1, 2.0),
        tensor(rng, 4, 10, 2, shared=True),
    ]
    return weights, tensors


def weight_formula(w: WeightRange, z: Array, end: float) -> float:
    """Return Σ h·(d²/12 + λ (|w| − levels·d)₊²) number by number."""
    total, (groups, outputs, inputs, taps) = 0.0, w.size.shape
    noise, rows, columns = w.noise, w.noise.coupling.rows, w.noise.coupling.columns
    for g, o, i, k in np.ndindex(groups, outputs, inputs, taps):
        h = (noise.white[g, o] * noise.spread[g, i] + noise.constant[g, o] * noise.mean[g, i]) / taps
        d = end / noise.levels * np.exp(z[columns[g, i]] - z[rows[g, o]])
        total += h * (d**2 / 12 + COHERENCE * max(float(w.size[g, o, i, k]) - noise.levels * d, 0.0) ** 2)
    return total


def tensor_formula(t: RangeNoise, z: Array, ends: Array) -> float:
    """Return Σ G·(Δ² e^{−2z}/12 + λ Σ share (min(u, T e^{−z}) − min(u, c))²), T within the Clip, by channel."""
    total = 0.0
    for channel, place in enumerate(t.ids):
        fade = np.exp(-z[place])
        total += t.gain[channel] * (ends.sum() / t.levels * fade) ** 2 / 12
        for (values, share, _), end in zip(t.sides, ends, strict=True):
            size = np.broadcast_to(values, share.shape)[channel]
            off = np.minimum(size, min(end, t.bound * np.exp(z[t.bound_id])) * fade) - np.minimum(size, t.bound)
            total += t.clip_gain[channel] * float(share[channel] @ off**2)
    return total


def formula(weights: list[WeightRange], tensors: list[RangeNoise], z: Array, ends: Array) -> float:
    """Return J."""
    total = sum(weight_formula(w, z, end) for w, end in zip(weights, ends.tolist(), strict=False))
    place = len(weights)
    for t in tensors:
        total += tensor_formula(t, z, ends[place : place + len(t.sides)])
        place += len(t.sides)
    return total
