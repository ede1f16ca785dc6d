"""The noise that rounding adds to a network's output, as a function of the log-scales z of its channel classes.

    J(z) = Σ_weights  Δw²/12 · Σ_{o,i} h[o,i] e^{2 z_in[i] − 2 z_out[o]}
         + Σ_biases   Δb²/12 · Σ_o HB[o] e^{−2 z_out[o]}
         + Σ_tensors  Δx²/12 · Σ_c G[c] e^{−2 z[c]}

with the steps the quantizer will use: Δw = max M e^{z_out − z_in} / levels, Δb = max |b| e^{z_out} / levels, and
Δx = max_c(max(hi, lo) e^z) / levels if symmetric or (max_c hi e^z + max_c lo e^z) / levels if not. h is of rank two:
h[o,i] = GP[o]·spread[i] + HB[o]·mean[i], the white and the constant part of the input's power.

A square of a maximum of exponentials times a sum of exponentials is convex in z. A bias is a symmetric tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.parallel import parallel
from equiquant.numerics.scales.coupling import Coupling

__all__ = ["NoiseTerm", "TensorNoise", "WeightNoise", "objective"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

HALVINGS = 16  # of the range of a bias that are weighed: one dead channel may have set it


@dataclass(frozen=True, eq=False)
class TensorNoise:
    """Rounding of an activation tensor, or of a bias stored with few bits.

    Attributes:
        name: The tensor, or the layer.
        ids: (C,) class of each channel; of channels that only share the range, too, after its own.
        high: (C,) largest value, at least 0.
        low: (C,) minus the smallest value, at least 0.
        gain: (C,) noise gain G from each channel to the output, 0 for those that only share the range.
        levels: Steps in the range: 127 symmetric, 255 asymmetric.
        symmetric: The range is symmetric about 0.
        clip_gain: (C,) noise gain of what a range cuts off, whose errors have one sign.
        kind: `activation` or `bias`.
    """

    name: str
    ids: Ids
    high: Array
    low: Array
    gain: Array
    levels: float
    symmetric: bool
    clip_gain: Array
    kind: str = "activation"

    def sides(self) -> tuple[Array, ...]:
        """Return the maxima whose sum is the range: one if symmetric, two if not."""
        return (np.maximum(self.high, self.low),) if self.symmetric else (self.high, self.low)

    def exact(self, z: Array) -> float:
        """Return J with true maxima; of a bias with the range that costs least, for no quantizer keeps a worse one."""
        local = z[self.ids]
        width = sum(float((side * np.exp(local)).max(initial=0.0)) for side in self.sides())
        noise = (width / self.levels) ** 2 / 12 * float(self.gain @ np.exp(-2 * local))
        return noise if self.kind != "bias" or not self.symmetric else self._clipped(local, width, noise)

    def _clipped(self, local: Array, width: float, noise: float) -> float:
        """Return the least noise of ranges that halve again and again, what they cut off included."""
        size, weight = self.sides()[0] * np.exp(local), self.clip_gain * np.exp(-2 * local)
        halved = 0.5 ** np.arange(HALVINGS)
        cut = (np.maximum(size - width * halved[:, None], 0) ** 2 * weight).sum(axis=1)
        return float((noise * halved**2 + cut).min())


@dataclass(frozen=True, eq=False)
class WeightNoise:
    """Rounding of a weight.

    Attributes:
        name: The layer.
        coupling: M (G, P, Q) with the classes of its rows and columns.
        white: (G, P) gain GP of noise that is white over space, at the layer's output.
        constant: (G, P) gain HB of noise that is constant over space.
        spread: (G, Q) kernel size times the power of each input channel that varies over space.
        mean: (G, Q) kernel size times the power that is constant within a sample.
        levels: Largest integer, 127 for int8.
        per_channel: Each output channel has its own step.
        kind: `weight`.
    """

    name: str
    coupling: Coupling
    white: Array
    constant: Array
    spread: Array
    mean: Array
    levels: float
    per_channel: bool = False
    kind: str = "weight"

    def exact(self, z: Array) -> float:
        """Return J with true maxima."""
        rows, columns = z[self.coupling.rows], z[self.coupling.columns]
        scaled = (self.coupling.magnitude * np.exp(-columns)[:, None, :]).max(axis=2, initial=0.0)
        step = scaled * np.exp(rows) / self.levels
        noise = self._noise(rows, columns)
        if self.per_channel:
            return float((step**2 * noise).sum()) / 12
        return float(step.max(initial=0.0)) ** 2 / 12 * float(noise.sum())

    def _noise(self, rows: Array, columns: Array) -> Array:
        """Return Σ_i h[o,i] e^{2 z_in − 2 z_out} of each output channel, (G, P)."""
        power = np.exp(2 * columns)
        white = (self.spread * power).sum(axis=1, keepdims=True)
        constant = (self.mean * power).sum(axis=1, keepdims=True)
        return np.asarray((self.white * white + self.constant * constant) * np.exp(-2 * rows))


NoiseTerm = TensorNoise | WeightNoise


def objective(terms: Sequence[NoiseTerm], z: Array) -> float:
    """Return the exact J, in the unit of the gains: noise power over signal power when they are normalized so."""
    return sum(parallel(lambda term: term.exact(z), terms))
