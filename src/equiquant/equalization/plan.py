"""The equalization plan: the log-scale of every class, and what it does to the ranges of the channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.equalization.classes import ScaleClasses
from equiquant.equalization.network import coupling_of, couplings
from equiquant.graph import query
from equiquant.numerics.pairwise import DEAD, solve_pairwise

__all__ = ["EqualizationPlan", "LayerSpread", "solve", "spread"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class EqualizationPlan:
    """What equalization will do, before any weight is touched.

    Attributes:
        classes: The scale classes of the graph.
        z: (classes,) log-scale of each class; 0 for class 0.
        method: The solver that found it.
        sweeps: Sweeps or iterations it took.
    """

    classes: ScaleClasses
    z: Array
    method: str
    sweeps: int


@dataclass(frozen=True)
class LayerSpread:
    """Ratio of the largest to the smallest range among the channels of one weight; dead channels do not count.

    Attributes:
        node: The layer.
        op_type: Its op.
        channels: Output channels.
        before: Ratio over output channels before equalization.
        after: The same after.
        free: Output channels the plan may rescale.
        pinned_by: Why the others may not move; empty if all may.
    """

    node: str
    op_type: str
    channels: int
    before: float
    after: float
    free: int
    pinned_by: str


def solve(classes: ScaleClasses, *, steps: int = 1, append_bias: bool = True) -> EqualizationPlan:
    """Choose the log-scales by the documented pairwise algorithm.

    Args:
        classes: The scale classes.
        steps: Sweeps; −1 until convergence.
        append_bias: A producer's range includes its bias.
    """
    network = couplings(classes)
    result = solve_pairwise(network, classes.count, steps=steps, append_bias=append_bias, bounds=_clip_bounds(classes))
    return EqualizationPlan(classes, result.z, "pairwise", result.sweeps)


def _clip_bounds(classes: ScaleClasses) -> tuple[Array, Array]:
    """Return the smallest and largest log-scale of each class: 0 where a Clip(0, c) reads the channel."""
    lower, upper = np.full(classes.count, -np.inf), np.full(classes.count, np.inf)
    for site in classes.clips:
        lower[site.ids] = upper[site.ids] = 0.0
    return lower, upper


def spread(classes: ScaleClasses, z: Array) -> list[LayerSpread]:
    """Return the channel range spread of every layer before and after log-scales `z`, (classes,)."""
    found = []
    for slot in classes.slots:
        if slot.role != "weight":
            continue
        coupling = coupling_of(slot, None)
        scaled = coupling.magnitude * np.exp(z[coupling.rows][:, :, None] - z[coupling.columns][:, None, :])
        output = slot.node.outputs[0]
        pin = classes.pins.get(output)
        found.append(
            LayerSpread(
                node=query.label(slot.node),
                op_type=slot.node.op_type,
                channels=coupling.rows.size,
                before=_ratio(coupling.magnitude),
                after=_ratio(scaled),
                free=int((coupling.rows != 0).sum()),
                pinned_by=f"{pin.reason} ({pin.node})" if pin is not None else "",
            )
        )
    return found


def _ratio(magnitude: Array) -> float:
    rows = magnitude.max(axis=2).reshape(-1)
    live = rows[rows > DEAD * rows.max(initial=0.0)]
    return float(live.max() / live.min()) if live.size else 1.0
