"""Write a plan into the weights, each constant once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization.builder import Slot
from equiquant.equalization.classes import ScaleClasses
from equiquant.graph import edit, query
from equiquant.io import unload
from equiquant.numerics.parallel import parallel

__all__ = ["apply", "powers_of_two"]

Array = npt.NDArray[Any]


def apply(model: ir.Model, classes: ScaleClasses, z: Array) -> list[Decision]:
    """Rescale every constant of `model`, from which `classes` was found: W' = W · e^(z[gain] − z[loss]).

    A constant that other readers need as it is, or that two readers need differently, is copied for the reader that
    needs it changed; each copy is reported.

    Args:
        model: Changed in place; the tensors it was loaded with are not written to.
        classes: Its scale classes.
        z: (classes,) log-scale of each class.
    """
    readers: dict[ir.Value, list[Slot]] = {}
    for slot in classes.slots:
        readers.setdefault(slot.value, []).append(slot)
    names = edit.Names(model.graph)
    decisions: list[Decision] = []
    asked = parallel(lambda item: _asked(*item, z), readers.items())
    for (value, slots), demands in zip(readers.items(), asked, strict=True):
        kept = len(value.uses()) > len(slots) or query.is_public(value) or any(s is None for _, s in demands)
        for sharing, scaled in demands:
            if scaled is None:
                continue
            if not kept:
                _replace(value, scaled)
                kept = True  # the next demand differs and needs a copy
            else:
                decisions.append(_copy(model, names, sharing, scaled))
    return decisions


def powers_of_two(classes: ScaleClasses, z: Array) -> Array:
    """Return log-scales rounded to powers of two, whose products are exact in floating point.

    The bound of a Clip(0, c) is rounded like any other scale and the channels under it with it, their distance from it
    towards none: so a channel that stays below the bound still does, and one that reaches it moves with it.
    """
    exponent = z / np.log(2.0)
    rounded = np.rint(exponent)
    for site in classes.clips:
        bound = exponent[site.bound_id]
        rounded[site.ids] = np.rint(bound) + np.trunc(exponent[site.ids] - bound)
    return np.asarray(np.log(2.0) * rounded)


@dataclass(frozen=True, eq=False)
class _Demand:
    """One way to rescale a constant (None: not at all) and the readers that ask for it."""

    factor: Array | None
    slots: list[Slot]


def _asked(value: ir.Value, slots: list[Slot], z: Array) -> list[tuple[list[Slot], Array | None]]:
    """Return the readers of a constant that ask for the same, and the numbers they want, None for those it has.

    For zeros nothing is returned: any scale fits.
    """
    array = query.constant(value)
    if array is None or not array.any():
        return []
    found = _demands(slots, z)
    wanted = [(d.slots, None if d.factor is None else _scaled(array, d.factor)) for d in found]
    unload(array)
    return wanted


def _demands(slots: list[Slot], z: Array) -> list[_Demand]:
    found: list[_Demand] = []
    for slot in slots:
        log = z[slot.gain] - z[slot.loss]
        factor = np.exp(log) if log.any() else None
        same = next((d for d in found if _same(d.factor, factor)), None)
        if same is None:
            found.append(_Demand(factor, [slot]))
        else:
            same.slots.append(slot)
    return found


def _same(left: Array | None, right: Array | None) -> bool:
    return left is right or (left is not None and right is not None and np.array_equal(left, right))


def _scaled(array: Array, factor: Array) -> Array:
    """Multiply in at least float32 and keep the constant's type; the shape grows only if the factors need it."""
    while factor.ndim > array.ndim and factor.shape[0] == 1:
        factor = factor[0]
    if np.broadcast_shapes(array.shape, factor.shape) != array.shape and (factor == factor.reshape(-1)[0]).all():
        factor = factor.reshape(-1)[0]
    wide = np.result_type(array.dtype, np.float32) if array.dtype.kind == "f" else np.dtype(np.float32)
    with np.errstate(over="ignore", under="ignore"):  # infinity is for the proof to find
        product = np.asarray(array.astype(wide, copy=False) * np.asarray(factor, dtype=wide))
        return product.astype(array.dtype, copy=False)


def _replace(value: ir.Value, array: Array) -> None:
    """Put new numbers into an initializer or a Constant node."""
    node = query.constant_producer(value)
    if node is None:
        return edit.set_initializer(value, array)
    tensor = ir.Tensor(np.ascontiguousarray(array) if array.ndim else array, name=value.name)
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", tensor)
    value.shape, value.type = ir.Shape(tensor.shape), ir.TensorType(tensor.dtype)
    return None


def _copy(model: ir.Model, names: edit.Names, slots: list[Slot], array: Array) -> Decision:
    original, first = slots[0].value, query.label(slots[0].node)
    copy = edit.add_initializer(model.graph, names.fresh(f"{original.name}_{first}"), array)
    for slot in slots:
        edit.set_input(slot.node, slot.index, copy)
    reason = f"'{original.name}' has other readers that need other scales: copied to '{copy.name}'"
    return Decision("equalize", "unshare", ", ".join(query.label(s.node) for s in slots), True, reason)
