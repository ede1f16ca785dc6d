"""Channels that no sample woke: what another sample may make of them.

A channel behind a Relu that is 0 on all samples seems free: weights that read it may be clipped, and those that make it
rounded as coarsely as one likes, for no noise reaches an output. Yet of n samples and one more each is as likely as the
others to be the only one that wakes it: with probability 1/(n + 1) it is the next. Awake it is taken to be as active as
others are of what drives them, d = Σ W² E[x²] over what its layer reads, and to let as much noise through its Relu:

    E[x²] = d · median(E[x²] / d) / (n + 1)
    gain before the Relu = that behind it · median(before / behind) / (n + 1)

with medians over those awake, so that both follow the channel's scale as those of any other do. The gain behind the
Relu is measured like that of any other channel: what reads it is not asleep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward import Gains
from equiquant.equalization.classes import ScaleClasses
from equiquant.equalization.network import coupling_of
from equiquant.graph import query
from equiquant.io import unload
from equiquant.numerics.scales.coupling import grouped
from equiquant.numerics.statistics.figures import ChannelFigures

__all__ = ["awakened"]

Array = npt.NDArray[Any]
RECTIFIERS = frozenset({"Relu", "Clip"})


def awakened(
    classes: ScaleClasses, figures: Mapping[str, ChannelFigures], gains: Mapping[str, Gains], samples: int
) -> tuple[dict[str, ChannelFigures], dict[str, Gains]]:
    """Return the figures and the gains with those of dead channels filled in; all others stay as they are.

    Args:
        classes: The scale classes of the model as it is now.
        figures: Per-channel figures of its tensors, by name.
        gains: Noise gains of its tensors, by name; those of single weights are left alone.
        samples: How many samples they come from.
    """
    figures, gains = dict(figures), dict(gains)
    if all((figure.mean_square > 0).all() for figure in figures.values()):
        return figures, gains
    drive = _drive(classes, figures)
    dead = np.zeros(classes.count, dtype=bool)
    for value in classes.values:
        figure = figures.get(name := query.name_of(value))
        ids = None if figure is None else _classes_of(value, classes, figure.mean_square.size)
        if figure is None or ids is None:
            continue
        silent = (figure.mean_square == 0) & (drive[ids] > 0)
        dead[ids[silent]] = True
        awake = (figure.mean_square > 0) & (drive[ids] > 0)
        if silent.any() and awake.any():
            each = np.median(figure.mean_square[awake] / drive[ids[awake]]) / (samples + 1)
            steady = np.median(figure.constant_square[awake] / figure.mean_square[awake])
            power = np.where(silent, each * drive[ids], figure.mean_square)
            constant = np.where(silent, steady * power, figure.constant_square)
            figures[name] = replace(figure, mean_square=power, constant_square=constant)
    for value in classes.values:
        reader = query.sole_consumer(value)
        if reader is None or reader.op_type not in RECTIFIERS:
            continue
        before, behind = (gains.get(query.name_of(v)) for v in (value, reader.outputs[0]))
        ids = None if before is None else _classes_of(value, classes, before.white.size)
        if before is not None and behind is not None and ids is not None and behind.white.size == ids.size:
            white = _filled(before.white, behind.white, dead[ids], samples)
            constant = _filled(before.constant, behind.constant, dead[ids], samples)
            gains[query.name_of(value)] = replace(before, white=white, constant=constant)
    return figures, gains


def _drive(classes: ScaleClasses, figures: Mapping[str, ChannelFigures]) -> Array:
    """Return d of every class, (classes,): of the layer that drives it most; 0 where none is known to."""
    drive = np.zeros(classes.count)
    for slot in classes.layers:
        figure, array = figures.get(query.name_of(slot.data)), query.constant(slot.value)
        if figure is None or array is None:
            continue
        squares = np.square(grouped(array, slot.groups, slot.out_axis)).sum(axis=3, dtype=np.float64)
        if figure.mean_square.size == squares.shape[0] * squares.shape[2]:
            power = figure.mean_square.reshape(squares.shape[0], 1, squares.shape[2])
            np.maximum.at(drive, coupling_of(slot, None).rows, (squares * power).sum(axis=2))
        unload(array)
    drive[0] = 0.0  # whatever is pinned, for many reasons
    return drive


def _classes_of(value: ir.Value, classes: ScaleClasses, size: int) -> Array | None:
    """Return the class of each of a tensor's channels, (size,), None if they are of another number."""
    ids = classes.values[value]
    return ids.reshape(-1) if ids.size == size else None


def _filled(before: Array, behind: Array, dead: Array, samples: int) -> Array:
    """Return (C,) gains before a Relu, those of dead channels that have none filled in."""
    lacking, awake = dead & (before == 0), (before > 0) & (behind > 0)
    if not (lacking.any() and awake.any()):
        return before
    return np.where(lacking, behind * np.median(before[awake] / behind[awake]) / (samples + 1), before)
