"""The noise that rounding adds to a network's output, as a function of the log-scales z of its channel classes.

    J(z) = Σ_weights  Δw²/12 · Σ_{o,i} h[o,i] e^{2 z_in[i] − 2 z_out[o]}
         + Σ_biases   Δb²/12 · Σ_o HB[o] e^{−2 z_out[o]}
         + Σ_tensors  Δx²/12 · Σ_c G[c] e^{−2 z[c]}

with the steps the quantizer will use: Δw = max M e^{z_out − z_in} / levels, Δb = max |b| e^{z_out} / levels, and
Δx = max_c(max(hi, lo) e^z) / levels if symmetric or (max_c hi e^z + max_c lo e^z) / levels if not. h is of rank two:
h[o,i] = GP[o]·spread[i] + HB[o]·mean[i], the white and the constant part of the input's power.

A square of a maximum of exponentials times a sum of exponentials is convex in z. The maxima are replaced by p-norms,
written around the start z0 of a stage as (Σ_c q_c e^{p(z_c − z0_c)})^{1/p} with q fixed, so that an evaluation is
matrix-vector products, without an exponential per weight. Entries far below the maximum are left out of q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from equiquant.numerics.coupling import Coupling

__all__ = ["BiasNoise", "NoiseTerm", "Stage", "TensorNoise", "WeightNoise"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

SMALLEST = 1e-200  # below this a p-norm has underflown: the next stage starts from here with new weights
PRUNE = 0.25  # entries below this fraction of the maximum are left out of a p-norm: at p = 8 each adds under 2e-5


class Stage(Protocol):
    """One term, with its maxima replaced by p-norms around a starting point."""

    def add(self, z: Array, gradient: Array) -> float:
        """Return J of the term at z and add its gradient, (classes,)."""
        ...


class NoiseTerm(Protocol):
    """One term of J."""

    @property
    def name(self) -> str:
        """The layer or tensor whose rounding it is."""
        ...

    def exact(self, z: Array) -> float:
        """Return J of the term with true maxima."""
        ...

    def stage(self, z: Array, p: float) -> Stage:
        """Return the term with p-norms around z."""
        ...


@dataclass(frozen=True, eq=False)
class TensorNoise:
    """Rounding of an activation tensor.

    Attributes:
        name: The tensor.
        ids: (C,) class of each channel.
        high: (C,) largest value, at least 0.
        low: (C,) minus the smallest value, at least 0.
        gain: (C,) noise gain G from each channel to the output.
        levels: Steps in the range: 127 symmetric, 255 asymmetric.
        symmetric: The range is symmetric about 0.
    """

    name: str
    ids: Ids
    high: Array
    low: Array
    gain: Array
    levels: float
    symmetric: bool

    def sides(self) -> tuple[Array, ...]:
        """Return the maxima whose sum is the range: one if symmetric, two if not."""
        return (np.maximum(self.high, self.low),) if self.symmetric else (self.high, self.low)

    def exact(self, z: Array) -> float:
        """Return J with true maxima."""
        local = z[self.ids]
        width = sum(float((side * np.exp(local)).max(initial=0.0)) for side in self.sides())
        return (width / self.levels) ** 2 / 12 * float(self.gain @ np.exp(-2 * local))

    def stage(self, z: Array, p: float) -> Stage:
        """Return the term with p-norms around z."""
        return _VectorStage(self.ids, tuple(_Norm.of(s, z[self.ids], p) for s in self.sides()), self.gain, self.levels)


@dataclass(frozen=True, eq=False)
class BiasNoise:
    """Rounding of a bias stored with few bits: constant over space, so its gain is HB."""

    name: str
    ids: Ids
    size: Array
    gain: Array
    levels: float

    def exact(self, z: Array) -> float:
        """Return J with true maxima."""
        return self._tensor().exact(z)

    def stage(self, z: Array, p: float) -> Stage:
        """Return the term with p-norms around z."""
        return self._tensor().stage(z, p)

    def _tensor(self) -> TensorNoise:
        return TensorNoise(self.name, self.ids, self.size, self.size, self.gain, self.levels, symmetric=True)


@dataclass(frozen=True, eq=False)
class WeightNoise:
    """Rounding of a weight.

    Attributes:
        name: The layer.
        coupling: M (G, P, Q) with the classes of its rows and columns.
        white: (G, P) gain GP of noise that is white over space, at the layer's output.
        constant: (G, P) gain HB of noise that is constant over space.
        spread: (G, Q) kernel size times the variance of each input channel.
        mean: (G, Q) kernel size times its squared mean.
        levels: Largest integer, 127 for int8.
        per_channel: Each output channel has its own step.
    """

    name: str
    coupling: Coupling
    white: Array
    constant: Array
    spread: Array
    mean: Array
    levels: float
    per_channel: bool = False

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

    def stage(self, z: Array, p: float) -> Stage:
        """Return the term with p-norms around z."""
        return _WeightStage.of(self, z, p)


@dataclass(frozen=True, eq=False)
class _Norm:
    """A p-norm of side_c · e^{z_c} around z0: top · (Σ q_c e^{p (z_c − z0_c)})^{1/p}."""

    q: Array
    start: Array
    top: float
    p: float

    @staticmethod
    def of(side: Array, start: Array, p: float) -> _Norm:
        scaled = side * np.exp(start)
        top = float(scaled.max(initial=0.0))
        return _Norm((scaled / top) ** p if top > 0 else np.zeros_like(scaled), start, top, p)

    def value(self, local: Array) -> tuple[float, Array]:
        """Return the norm and its gradient with respect to z, (C,)."""
        if self.top == 0.0:
            return 0.0, np.zeros_like(local)
        exponent = self.p * (local - self.start)
        shift = float(exponent.max())
        parts = self.q * np.exp(exponent - shift)
        total = float(parts.sum())
        if total == 0.0:
            return 0.0, np.zeros_like(local)
        norm = self.top * total ** (1 / self.p) * np.exp(shift / self.p)
        return float(norm), norm * parts / total


@dataclass(frozen=True, eq=False)
class _VectorStage:
    ids: Ids
    norms: tuple[_Norm, ...]
    gain: Array
    levels: float

    def add(self, z: Array, gradient: Array) -> float:
        """Return J and add its gradient."""
        local = z[self.ids]
        values = [norm.value(local) for norm in self.norms]
        width = sum(value for value, _ in values)
        if width == 0.0:
            return 0.0
        noise = self.gain * np.exp(-2 * local)
        total = float(noise.sum())
        scale = (width / self.levels) ** 2 / 12
        slope = sum((2 * scale * total / width) * part for _, part in values) - 2 * scale * noise
        gradient += np.bincount(self.ids, slope, minlength=gradient.size)
        return scale * total


@dataclass(frozen=True, eq=False)
class _WeightStage:
    """R^p = top^p · uᵀQv with u = e^{p(z_out − z_out0)}, v = e^{−p(z_in − z_in0)}; per channel, one R a row."""

    term: WeightNoise
    matrix: sparse.csr_matrix
    transposed: sparse.csr_matrix
    start_rows: Array
    start_columns: Array
    top: Array
    p: float

    @staticmethod
    def of(term: WeightNoise, z: Array, p: float) -> _WeightStage:
        coupling = term.coupling
        groups, outputs, inputs = coupling.magnitude.shape
        rows, columns = z[coupling.rows], z[coupling.columns]
        scaled = coupling.magnitude * np.exp(-columns)[:, None, :].astype(np.float32)
        if term.per_channel:
            rows = np.zeros_like(rows)
            top = scaled.max(axis=2, initial=0.0)
        else:
            scaled *= np.exp(rows)[:, :, None].astype(np.float32)
            top = np.full((groups, outputs), scaled.max(initial=0.0))
        scaled /= np.where(top > 0, top, 1.0)[:, :, None]
        group, row, column = np.nonzero(scaled >= PRUNE)
        values = scaled[group, row, column].astype(np.float64) ** p
        places = (group * outputs + row, group * inputs + column)
        matrix = sparse.csr_matrix((values, places), shape=(groups * outputs, groups * inputs))
        flat = (rows.reshape(-1), columns.reshape(-1), top.reshape(-1).astype(np.float64))
        return _WeightStage(term, matrix, matrix.T.tocsr(), *flat, p)

    def add(self, z: Array, gradient: Array) -> float:
        """Return J and add its gradient."""
        coupling = self.term.coupling
        rows, columns = z[coupling.rows], z[coupling.columns]
        power = np.exp(2 * columns)
        noise = self._noise(power)  # per row, before the division by e^{2 z_out}
        fade = np.exp(-2 * rows)
        if self.term.per_channel:
            squared, row_share, column_share = self._row_steps(columns.reshape(-1), noise)
        else:
            squared, row_share, column_share = self._shared_step(rows.reshape(-1), columns.reshape(-1), noise * fade)
        squared = squared.reshape(rows.shape) * (1.0 if self.term.per_channel else fade)
        each = squared * noise
        to_rows = row_share.reshape(rows.shape) - (0.0 if self.term.per_channel else 2.0) * each
        white = (squared * self.term.white).sum(axis=1, keepdims=True)
        constant = (squared * self.term.constant).sum(axis=1, keepdims=True)
        to_columns = 2 * power * (self.term.spread * white + self.term.mean * constant)
        to_columns -= column_share.reshape(columns.shape)
        gradient += np.bincount(coupling.rows.reshape(-1), to_rows.reshape(-1), minlength=gradient.size)
        gradient += np.bincount(coupling.columns.reshape(-1), to_columns.reshape(-1), minlength=gradient.size)
        return float(each.sum())

    def _noise(self, power: Array) -> Array:
        white = (self.term.spread * power).sum(axis=1, keepdims=True)
        constant = (self.term.mean * power).sum(axis=1, keepdims=True)
        return np.asarray(self.term.white * white + self.term.constant * constant)

    def _shared_step(self, rows: Array, columns: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Return Δ²/12 of every row (all the same) and the step's pull on rows and columns."""
        up, lift = _powers(self.p * (rows - self.start_rows))
        down, drop = _powers(-self.p * (columns - self.start_columns))
        reached = self.matrix @ down
        total = float(up @ reached)
        if total == 0.0:
            return np.zeros(rows.size), np.zeros(rows.size), np.zeros(columns.size)
        step = self.top[0] * total ** (1 / self.p) * np.exp((lift + drop) / self.p) / self.term.levels
        squared = step**2 / 12
        pull = 2 * squared * float(noise.sum()) / total
        return np.full(rows.size, squared), pull * up * reached, pull * down * (self.transposed @ up)

    def _row_steps(self, columns: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Return (Δ e^{−z_out})²/12 of every row; a row's own scale cancels, only columns are pulled."""
        down, drop = _powers(-self.p * (columns - self.start_columns))
        reached = self.matrix @ down
        live = reached > SMALLEST
        safe = np.where(live, reached, 1.0)
        step = np.where(live, self.top * safe ** (1 / self.p) * np.exp(drop / self.p), 0.0) / self.term.levels
        squared = step**2 / 12
        pull = 2 * squared * noise.reshape(-1) / safe
        return squared, np.zeros(squared.size), down * (self.transposed @ pull)


def _powers(exponent: Array) -> tuple[Array, float]:
    """Return e^{exponent − shift} and the shift that keeps it from overflowing."""
    shift = float(exponent.max(initial=0.0))
    return np.exp(exponent - shift), shift
