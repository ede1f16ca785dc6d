"""Give inputs that lie on a grid of 8 bits, as pixels and quantized features do, the scale that loses nothing.

A range chosen for least noise would come near it, and round every value anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate import SampleStream
from equiquant.decisions import Decision
from equiquant.numerics.calibration.grid import Grid, grid_of
from equiquant.recipe import Recipe
from equiquant.target import Survey

__all__ = ["input_grids"]

Ends = dict[tuple[str, str], tuple[float, ...]]


def input_grids(model: ir.Model, survey: Survey, recipe: Recipe, samples: SampleStream) -> tuple[Ends, list[Decision]]:
    """Return the ranges of the inputs whose values all lie on a grid, as `ChosenRanges.ends`, and the decisions.

    Args:
        model: The model; only read.
        survey: What will be quantized.
        recipe: Whether ranges are chosen for least noise with scales of any size; others are as asked for.
        samples: All there are: no later one may lie beside the grid. Made-up ones tell nothing.
    """
    target = survey.target
    fine = target.activation.bits > 8  # loses nothing on any grid
    if recipe.calibration != "noise" or target.scale_kind != "float" or samples.synthetic or fine:
        return {}, []
    if recipe.symmetric_ranges:  # of an asymmetric type: its steps, uneven in number, have no middle for 0
        return {}, []
    symmetric, levels = target.activation_symmetric, target.activation_levels
    unshared = survey.unshared
    ends: Ends = {}
    decisions = []
    for value in model.graph.inputs:
        name = value.name or ""
        if name not in unshared:
            continue
        grid = grid_of(_Input(samples, name), 2 * levels if symmetric else levels)
        if grid is None or not grid.fits(levels, symmetric=symmetric):
            continue
        ends["activation", name] = _ends(grid, levels, symmetric=symmetric)
        reason = f"its values are multiples of {grid.step:.6g}, which are kept as they are"
        decisions.append(Decision("calibrate", "input_grid", name, True, reason))
    return ends, decisions


@dataclass(frozen=True)
class _Input:
    """The arrays of one input, of all samples, as often as they are gone through."""

    samples: SampleStream
    name: str

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return (feed[self.name] for feed in self.samples)


def _ends(grid: Grid, levels: int, *, symmetric: bool) -> tuple[float, ...]:
    if symmetric:
        return (grid.symmetric_range(levels),)
    low, high = grid.range_of(levels)
    return (high, -low)
