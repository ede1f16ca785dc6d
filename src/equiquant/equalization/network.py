"""From scale classes to what the solvers read: one `Coupling` a weight, with its bias."""

from __future__ import annotations

import numpy as np

from equiquant.equalization.builder import Slot
from equiquant.equalization.classes import ScaleClasses
from equiquant.graph import query
from equiquant.io import unload
from equiquant.numerics.parallel import parallel
from equiquant.numerics.scales.coupling import Coupling, magnitudes

__all__ = ["coupling_of", "couplings"]


def couplings(classes: ScaleClasses) -> tuple[Coupling, ...]:
    """Return the couplings of all weights in graph order, each with the bias its node adds."""
    by_node: dict[object, list[Slot]] = {}
    for slot in classes.slots:
        by_node.setdefault(slot.node, []).append(slot)
    pairs = []
    for slots in by_node.values():
        weight = next((s for s in slots if s.role == "weight"), None)
        if weight is not None:
            pairs.append((weight, next((s for s in slots if s.role == "bias"), None)))
    return tuple(parallel(lambda pair: coupling_of(*pair), pairs))


def coupling_of(weight: Slot, bias: Slot | None) -> Coupling:
    """Return the coupling of one weight slot, its rows and columns in groups; biases of other sizes do not count."""
    array = query.constant(weight.value)
    assert array is not None
    magnitude = magnitudes(array, weight.groups, weight.out_axis)
    unload(array)
    groups, outputs, inputs = magnitude.shape
    if array.size == groups:
        rows, columns = (np.broadcast_to(ids, array.shape).reshape(groups, 1) for ids in (weight.gain, weight.loss))
    else:
        gain, loss = (
            ids.reshape(ids.shape[:2]) if ids.ndim else ids.reshape(1, 1) for ids in (weight.gain, weight.loss)
        )
        rows = _vector(gain, weight.out_axis, groups, outputs)
        columns = _vector(loss, 1 - weight.out_axis, groups, inputs)
    size = None
    if bias is not None:
        values = query.constant(bias.value)
        assert values is not None
        if values.size in (1, groups * outputs):
            size = np.broadcast_to(np.abs(values).reshape(-1), (groups * outputs,)).reshape(groups, outputs)
    return Coupling(magnitude, rows, columns, size)


def _vector(ids: np.ndarray, axis: int, groups: int, size: int) -> np.ndarray:
    """Return a (groups, size) table of the ids along one channel axis of a grouped weight."""
    if axis == 0:
        return np.broadcast_to(ids[:, 0], (groups * size,)).reshape(groups, size)
    if ids.shape[0] in (1, groups):
        return np.broadcast_to(ids, (groups, size))
    return ids.reshape(groups, -1, ids.shape[1])[:, 0, :]
