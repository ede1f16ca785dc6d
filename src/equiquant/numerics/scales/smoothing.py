"""J with its maxima replaced by p-norms around a point, and its gradient, for all terms of a network at once.

A maximum of m_c e^{z_c} becomes top · (Σ_c q_c e^{p (z_c − z0_c)})^{1/p} with q = (m e^{z0} / top)^p fixed: an
evaluation is vector operations and two sparse products, without an exponential per weight. Weight entries far below the
maximum are left out of q, all but the largest of each row and column: those grow first when channels move. A new stage
picks up the others.

The vectors of all terms lie end to end; `Segments` sum and spread over the terms' shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from equiquant.numerics.parallel import parallel
from equiquant.numerics.scales.flat_weights import FlatWeights
from equiquant.numerics.scales.noise import NoiseTerm, TensorNoise, WeightNoise
from equiquant.numerics.segments import Segments

__all__ = ["Smoothed"]

Array = npt.NDArray[Any]

PRUNE = 0.4  # of the maximum; smaller entries are left out, unless they are the largest of a row or column
SMALLEST_ENTRY = np.finfo(np.float32).tiny  # a row or column without any larger one has no entry that counts
SMALLEST = 1e-200  # below this a p-norm has underflown: the next stage starts from here with new weights


class Smoothed:
    """Evaluates the smoothed J.

    Args:
        terms: The terms of J.
        z: (classes,) the point to smooth around.
        p: The norm.
    """

    def __init__(self, terms: Sequence[NoiseTerm], z: Array, p: float) -> None:
        tensors = [t for t in terms if isinstance(t, TensorNoise) and t.ids.size and _reaches(t)]
        weights = [t for t in terms if isinstance(t, WeightNoise) and t.coupling.magnitude.any()]
        self._parts: list[_Tensors | _SharedSteps | _RowSteps] = []
        if tensors:
            self._parts.append(_Tensors(tensors, z, p))
        if shared := [w for w in weights if not w.per_channel]:
            self._parts.append(_SharedSteps(_Layers(shared, z, p), p))
        if rows := [w for w in weights if w.per_channel]:
            self._parts.append(_RowSteps(_Layers(rows, z, p), p))

    def __call__(self, z: Array) -> tuple[float, Array]:
        """Return J and its gradient, (classes,)."""
        value, gradient = 0.0, np.zeros(z.size)
        for part in self._parts:
            value += part.add(z, gradient)
        return value, gradient


def _reaches(term: TensorNoise) -> bool:
    return any(side.any() for side in term.sides())


class _Tensors:
    """All activations and biases: a side is one maximum, a symmetric tensor has one and an asymmetric one two."""

    def __init__(self, terms: Sequence[TensorNoise], z: Array, p: float) -> None:
        sides = [(k, t.ids, side) for k, t in enumerate(terms) for side in t.sides() if side.any()]
        self._p = p
        self._owner = np.array([k for k, _, _ in sides])
        self._side_ids = np.concatenate([ids for _, ids, _ in sides])
        self._sides = Segments([ids.size for _, ids, _ in sides])
        self._start = z[self._side_ids]
        scaled = np.concatenate([side for _, _, side in sides]) * np.exp(self._start)
        self._top = self._sides.max(scaled)
        self._q = (scaled / self._sides.spread(self._top)) ** p
        self._ids = np.concatenate([t.ids for t in terms])
        self._terms = Segments([t.ids.size for t in terms])
        self._gain = np.concatenate([t.gain for t in terms])
        self._levels = np.array([t.levels for t in terms])

    def add(self, z: Array, gradient: Array) -> float:
        """Return J of these terms and add its gradient."""
        grown, shift = self._sides.powers(self._p * (z[self._side_ids] - self._start))
        parts = self._q * grown
        total = self._sides.sum(parts)
        live = total > SMALLEST
        total = np.where(live, total, 1.0)
        norm = np.where(live, self._top * total ** (1 / self._p) * np.exp(shift / self._p), 0.0)
        width = np.bincount(self._owner, norm, minlength=self._levels.size)
        squared = (width / self._levels) ** 2 / 12
        noise = self._gain * np.exp(-2 * z[self._ids])
        power = self._terms.sum(noise)
        pull = 2 * squared * power / np.where(width > 0, width, 1.0)
        to_sides = self._sides.spread(pull[self._owner] * norm / total) * parts
        gradient += np.bincount(self._side_ids, to_sides, minlength=gradient.size)
        gradient -= np.bincount(self._ids, 2 * self._terms.spread(squared) * noise, minlength=gradient.size)
        return float(squared @ power)


class _Layers(FlatWeights):
    """All weights end to end, q as one block-diagonal matrix."""

    def __init__(self, terms: Sequence[WeightNoise], z: Array, p: float) -> None:
        super().__init__(terms)
        blocks, tops = zip(*parallel(lambda t: _block(t, z, p), terms), strict=True)
        self.q = sparse.block_diag(blocks, format="csr")
        self.q_transposed = self.q.T.tocsr()
        self.top = np.concatenate(tops)
        self.start_rows, self.start_columns = z[self.row_ids], z[self.column_ids]


def _block(term: WeightNoise, z: Array, p: float) -> tuple[sparse.csr_matrix, Array]:
    """Return q of one weight as a sparse (rows, columns) block, and the maximum behind every row."""
    coupling = term.coupling
    groups, outputs, inputs = coupling.magnitude.shape
    scaled = coupling.magnitude * np.exp(-z[coupling.columns])[:, None, :].astype(np.float32)
    if term.per_channel:
        top = scaled.max(axis=2)
    else:
        scaled *= np.exp(z[coupling.rows])[:, :, None].astype(np.float32)
        top = np.full((groups, outputs), scaled.max())
    row_top = np.where(top > 0, top, 1.0).reshape(-1)
    flat = scaled.reshape(groups * outputs, inputs)
    large = np.flatnonzero(_kept(scaled, (PRUNE * row_top).astype(np.float32).reshape(groups, outputs)))
    rows, columns = np.divmod(large, max(inputs, 1))
    values = (flat.reshape(-1)[large] / row_top[rows]) ** p
    places = (rows, rows // max(outputs, 1) * inputs + columns)
    block = sparse.csr_matrix((values, places), shape=(groups * outputs, groups * inputs))
    return block, top.reshape(-1).astype(np.float64)


def _kept(scaled: Array, least: Array) -> npt.NDArray[np.bool_]:
    """Return which entries count, (G, P, Q): those from `least` (G, P) on, and the largest of each row and column."""
    if not scaled.size:
        return np.zeros(scaled.shape, dtype=bool)
    rows, columns = scaled.max(axis=2, keepdims=True), scaled.max(axis=1, keepdims=True)
    reached = np.minimum(np.minimum(rows, least[:, :, None]), columns)
    return np.asarray(scaled >= np.maximum(reached, SMALLEST_ENTRY, out=reached))


@dataclass(frozen=True, eq=False)
class _SharedSteps:
    """Weights with one step: R^p = top^p · uᵀqv, u = e^{p(z_out − z_out0)}, v = e^{−p(z_in − z_in0)}."""

    layers: _Layers
    p: float

    def add(self, z: Array, gradient: Array) -> float:
        """Return J of these weights and add its gradient."""
        layers = self.layers
        rows, columns = z[layers.row_ids], z[layers.column_ids]
        power, fade = np.exp(2 * columns), np.exp(-2 * rows)
        noise = layers.noise(power) * fade
        up, lift = layers.row_layers.powers(self.p * (rows - layers.start_rows))
        down, drop = layers.column_layers.powers(-self.p * (columns - layers.start_columns))
        reached = layers.q @ down
        total = layers.row_layers.sum(up * reached)
        live = total > SMALLEST
        total = np.where(live, total, 1.0)
        top = layers.row_layers.max(layers.top)
        step = np.where(live, top * total ** (1 / self.p) * np.exp((lift + drop) / self.p) / layers.levels, 0.0)
        squared = step**2 / 12
        sums = layers.row_layers.sum(noise)
        pull = 2 * squared * sums / total
        each = layers.row_layers.spread(squared)
        to_rows = layers.row_layers.spread(pull) * up * reached - 2 * each * noise
        to_columns = layers.noise_slope(power, each * fade)
        to_columns -= layers.column_layers.spread(pull) * down * (layers.q_transposed @ up)
        gradient += np.bincount(layers.row_ids, to_rows, minlength=gradient.size)
        gradient += np.bincount(layers.column_ids, to_columns, minlength=gradient.size)
        return float(squared @ sums)


@dataclass(frozen=True, eq=False)
class _RowSteps:
    """Weights with one step an output channel: a row's own scale cancels, only columns are pulled."""

    layers: _Layers
    p: float

    def add(self, z: Array, gradient: Array) -> float:
        """Return J of these weights and add its gradient."""
        layers = self.layers
        columns = z[layers.column_ids]
        power = np.exp(2 * columns)
        noise = layers.noise(power)
        down, drop = layers.column_layers.powers(-self.p * (columns - layers.start_columns))
        reached = layers.q @ down
        live = reached > SMALLEST
        reached = np.where(live, reached, 1.0)
        levels = layers.row_layers.spread(layers.levels)
        lift = layers.row_layers.spread(np.exp(drop / self.p))
        step = np.where(live, layers.top * reached ** (1 / self.p) * lift / levels, 0.0)
        squared = step**2 / 12
        pull = 2 * squared * noise / reached
        to_columns = layers.noise_slope(power, squared) - down * (layers.q_transposed @ pull)
        gradient += np.bincount(layers.column_ids, to_columns, minlength=gradient.size)
        return float(squared @ noise)
