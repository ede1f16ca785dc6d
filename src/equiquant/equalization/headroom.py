"""Room in float16, which ends at 65504: equalization must not make its values larger than they were.

A runtime that computes a float16 tensor in float32 shows nothing of it, and samples not seen may be larger. A uniform
shift of all the free channels that meet in one tensor changes no ratio among them: so scales are shifted until none
grows, by powers of two, which the proof asks for in float16. Where a Clip holds some of them in place, those that would
grow stay instead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.equalization.classes import ScaleClasses

__all__ = ["without_growth"]

Array = npt.NDArray[np.float64]

OCTAVE = np.log(2.0)


def without_growth(classes: ScaleClasses, z: Array) -> Array:
    """Return log-scales, (classes,), none of which is above 0 in a float16 tensor.

    Args:
        classes: The scale classes.
        z: (classes,) log-scales as planned.
    """
    if not any(value.dtype == ir.DataType.FLOAT16 for value in classes.values):
        return z
    group, moving = np.arange(classes.count), _moving(classes)
    for _, ids in moving:  # the classes that meet in a tensor move together
        group[np.isin(group, group[ids])] = group[ids[0]]
    narrow = {int(group[ids[0]]) for value, ids in moving if value.dtype == ir.DataType.FLOAT16}
    held = {int(group[i]) for site in classes.clips for i in (*np.unique(site.ids), site.bound_id) if i != 0}
    shifted = z.copy()
    for number in narrow:
        members = group == number
        grown = np.maximum(z[members], 0.0)
        shifted[members] -= grown if number in held else OCTAVE * np.ceil(grown.max() / OCTAVE)
    return shifted


def _moving(classes: ScaleClasses) -> list[tuple[ir.Value, npt.NDArray[np.int64]]]:
    """Return the tensors with the classes of theirs that are free."""
    found = ((value, np.unique(ids)) for value, ids in classes.values.items())
    return [(value, ids[ids != 0]) for value, ids in found if (ids != 0).any()]
