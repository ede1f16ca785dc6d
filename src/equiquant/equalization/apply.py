"""Write a plan into the weights, each constant once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization.builder import Slot
from equiquant.equalization.classes import ScaleClasses
from equiquant.graph import edit, query

__all__ = ["apply"]

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
    decisions: list[Decision] = []
    readers: dict[ir.Value, list[Slot]] = {}
    for slot in classes.slots:
        readers.setdefault(slot.value, []).append(slot)
    for value, slots in readers.items():
        array = query.constant(value)
        if array is None or not array.any():
            continue  # zeros have every scale
        factors = [_factor(slot, z) for slot in slots]
        if all(factor is None for factor in factors):
            continue
        alone = len(value.uses()) == len(slots) and not query.is_public(value) and value.is_initializer()
        if alone and all(_same(factor, factors[0]) for factor in factors[1:]) and factors[0] is not None:
            edit.set_initializer(value, _scaled(array, factors[0]))
            continue
        for slot, factor in zip(slots, factors, strict=True):
            if factor is not None:
                decisions.append(_copy(model, slot, _scaled(array, factor)))
    return [d for d in decisions if d.where]


def _factor(slot: Slot, z: Array) -> Array | None:
    """Return the factors of one constant, None where all are 1."""
    log = z[slot.gain] - z[slot.loss]
    return np.exp(log) if log.any() else None


def _same(left: Array | None, right: Array | None) -> bool:
    return left is right or (left is not None and right is not None and np.array_equal(left, right))


def _scaled(array: Array, factor: Array) -> Array:
    """Multiply in at least float32 and keep the constant's type; the shape grows only if the factors need it."""
    if np.broadcast_shapes(array.shape, factor.shape) != array.shape and (factor == factor.reshape(-1)[0]).all():
        factor = factor.reshape(-1)[0]
    wide = np.result_type(array.dtype, np.float32) if array.dtype.kind == "f" else np.dtype(np.float32)
    return (array.astype(wide, copy=False) * np.asarray(factor, dtype=wide)).astype(array.dtype, copy=False)


def _copy(model: ir.Model, slot: Slot, array: Array) -> Decision:
    value = slot.value
    lifted = query.constant_producer(value) is not None
    name = edit.unique_name(model.graph, f"{value.name}_{query.label(slot.node)}")
    edit.set_input(slot.node, slot.index, edit.add_initializer(model.graph, name, array))
    reason = "" if lifted else f"'{value.name}' has other readers that need it as it is"
    where = "" if lifted else query.label(slot.node)
    return Decision("equalize", "unshare", where, True, f"{reason}: copied to '{name}'")
