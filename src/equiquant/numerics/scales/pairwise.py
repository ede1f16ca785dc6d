"""The documented equalization: s = sqrt(r_consumers / r_producers) for every class, tensor after tensor.

r_producers is the largest |W'| of the rows that produce the class (with the bias when it counts), r_consumers of the
columns that consume it; after the step both are sqrt(r_producers · r_consumers). One sweep visits the classes in
topological order; sweeps repeat a given number of times or until nothing moves.
Source: Nagel et al., arXiv:1906.04721, section 4.1, generalized from pairs of layers to classes of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.scales.coupling import LARGEST_LOG_SCALE, Coupling

__all__ = ["CONVERGED", "DEAD", "PairwiseResult", "solve_pairwise"]

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]
Bounds = tuple[Array, Array]

CONVERGED = 1e-3  # largest change of a log-scale in the last sweep
DEAD = 1e-9  # a channel whose range is below this fraction of its tensor's keeps its scale
MOST_SWEEPS = 500  # a guard only: the sweeps contract


@dataclass(frozen=True, eq=False)
class PairwiseResult:
    """The log-scales and how they were reached.

    Attributes:
        z: (classes,) float64 log-scale of each class; 0 for class 0.
        sweeps: Sweeps done.
    """

    z: Array
    sweeps: int


def solve_pairwise(
    couplings: Sequence[Coupling],
    classes: int,
    bounds: Bounds,
    *,
    steps: int,
    append_bias: bool,
) -> PairwiseResult:
    """Balance producers and consumers of every class.

    Args:
        couplings: The weights, producers before consumers.
        classes: Number of classes; class 0 is pinned.
        bounds: Smallest and largest log-scale of each class, (classes,) each.
        steps: Sweeps, or −1 to sweep until the largest change is below `CONVERGED`.
        append_bias: A producer's range includes its bias.
    """
    z = np.zeros(classes)
    lower, upper = np.maximum(bounds[0], -LARGEST_LOG_SCALE), np.minimum(bounds[1], LARGEST_LOG_SCALE)
    blocks = _blocks(couplings, classes)
    sweeps, change = 0, np.inf
    while sweeps < (MOST_SWEEPS if steps == -1 else steps) and change >= CONVERGED:
        change = 0.0
        for block in blocks:
            producing, consuming = block.ranges(z, append_bias)
            live = (producing > DEAD * producing.max(initial=0)) & (consuming > DEAD * consuming.max(initial=0))
            ids = block.classes[live]
            step = 0.5 * (np.log(consuming[live]) - np.log(producing[live]))
            moved = np.clip(z[ids] + step, lower[ids], upper[ids])
            change = max(change, float(np.abs(moved - z[ids]).max(initial=0)))
            z[ids] = moved
        sweeps += 1
    return PairwiseResult(z, sweeps)


@dataclass(frozen=True, eq=False)
class _Block:
    """The classes one tensor brings in, and the weights on either side of it."""

    classes: Ids
    place: Ids  # class -> position in `classes`, -1 elsewhere
    producers: tuple[Coupling, ...]
    consumers: tuple[Coupling, ...]

    def ranges(self, z: Array, append_bias: bool) -> tuple[Array, Array]:
        """Return the largest |W'| of the producing rows and of the consuming columns, per class of the block."""
        producing, consuming = np.zeros(self.classes.size), np.zeros(self.classes.size)
        for coupling in self.producers:
            rows = _scaled_max(coupling.magnitude, -z[coupling.columns], axis=2)
            if append_bias and coupling.bias is not None:
                rows = np.maximum(rows, coupling.bias)
            self._collect(producing, coupling.rows, rows * np.exp(z[coupling.rows]))
        for coupling in self.consumers:
            columns = _scaled_max(coupling.magnitude, z[coupling.rows], axis=1)
            self._collect(consuming, coupling.columns, columns * np.exp(-z[coupling.columns]))
        return producing, consuming

    def _collect(self, into: Array, ids: Ids, values: Array) -> None:
        where = self.place[ids].reshape(-1)
        mine = where >= 0
        np.maximum.at(into, where[mine], values.reshape(-1)[mine])


def _scaled_max(magnitude: Array, log_scale: Array, axis: int) -> Array:
    """Return max over `axis` of magnitude · e^(log_scale), shape (G, P) for axis 2 and (G, Q) for axis 1."""
    if magnitude.shape[axis] == 0:
        return np.zeros(np.delete(magnitude.shape, axis))
    if not log_scale.any():
        return np.asarray(magnitude.max(axis=axis), dtype=np.float64)
    factor = np.exp(log_scale).astype(np.float32)
    return np.asarray(
        (magnitude * (factor[:, None, :] if axis == 2 else factor[:, :, None])).max(axis=axis), dtype=np.float64
    )


def _blocks(couplings: Sequence[Coupling], classes: int) -> list[_Block]:
    """Group classes by the first weight that produces them; every block is solved at once."""
    home = np.full(classes, -1, dtype=np.int64)
    members: list[Ids] = []
    for coupling in couplings:
        new = np.unique(coupling.rows)
        new = new[(new != 0) & (home[new] < 0)]
        if new.size:
            home[new] = len(members)
            members.append(new)
    producers: list[list[Coupling]] = [[] for _ in members]
    consumers: list[list[Coupling]] = [[] for _ in members]
    for coupling in couplings:
        for block in np.unique(home[coupling.rows]):
            if block >= 0:
                producers[block].append(coupling)
        for block in np.unique(home[coupling.columns]):
            if block >= 0:
                consumers[block].append(coupling)
    blocks = []
    for ids, before, after in zip(members, producers, consumers, strict=True):
        place = np.full(classes, -1, dtype=np.int64)
        place[ids] = np.arange(ids.size)
        blocks.append(_Block(ids, place, tuple(before), tuple(after)))
    return blocks
