"""Apply an equalization plan only as far as it can be proven to keep the function.

The plan is applied to a copy and compared with the original. If the error exceeds the tolerance, the log-scales are
first rounded to powers of two, whose products are exact in floating point: that tells rounding noise of a deep network
from a wrong rule. If that fails too, the tensors are bisected: halves are added to what is already proven and kept as
long as the proof holds, so that only the guilty ones keep their scale.

Models with float16 or bfloat16 constants get powers of two from the start, because any other factor would round every
weight anew; what is left is the loss of the smallest numbers, less than one unit in the last place of the output.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization.apply import apply, powers_of_two
from equiquant.equalization.classes import ScaleClasses, find_classes
from equiquant.errors import ModelError
from equiquant.graph import query
from equiquant.verify.equivalence import Equivalence, Reference

__all__ = ["Proof", "apply_proven"]

Array = npt.NDArray[Any]

UNIT = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7}  # one unit in the last place, relative


@dataclass(frozen=True, eq=False)
class Proof:
    """An equalized model, with the evidence.

    Attributes:
        model: The equalized model.
        z: (classes,) the log-scales that were kept.
        equivalence: Original against equalized.
        decisions: Copies made, classes rolled back.
    """

    model: ir.Model
    z: Array
    equivalence: Equivalence
    decisions: tuple[Decision, ...]


def apply_proven(
    model: ir.Model, classes: ScaleClasses, z: Array, reference: Reference, tolerance: float = 1e-5
) -> Proof:
    """Return an equalized copy of `model` whose error against `reference` is within `tolerance`.

    Args:
        model: The float model; not changed.
        classes: Its scale classes.
        z: (classes,) log-scales to apply.
        reference: The original model's outputs.
        tolerance: Largest error allowed, relative to the output's magnitude; at least one unit in the last place of
            the narrowest float type among the model's tensors.
    """
    nothing = np.zeros_like(z)
    unit = max((UNIT.get(v.dtype, 0.0) for v in classes.values if v.dtype is not None), default=0.0)
    trial = _Trial(model, classes, reference, max(tolerance, unit), unit > 0)
    if reference.silent:
        reason = (
            f"the original model's '{reference.silent[0]}' is NaN or infinite on these inputs: nothing can be proven"
        )
        return trial.run(nothing, (_rollback("whole network", reason),))
    exact = powers_of_two(classes, z)
    proof = trial.run(exact if unit else z)
    if trial.holds(proof):
        return proof
    rounded = trial.run(exact, (_power_of_two(proof.equivalence),))
    if trial.holds(rounded):
        return rounded
    return trial.bisect(z, exact)


@dataclass(frozen=True, eq=False)
class _Trial:
    """How every candidate is judged; `narrow` if constants may leave the range of their type."""

    model: ir.Model
    classes: ScaleClasses
    reference: Reference
    tolerance: float
    narrow: bool

    def run(self, z: Array, notes: tuple[Decision, ...] = ()) -> Proof:
        """Apply `z` to a copy and measure it."""
        copy = self.model.clone()
        found = find_classes(copy)  # the walk is deterministic: the same classes
        decisions = apply(copy, found, z)
        result = Equivalence(float("inf"), "", 0)
        if not self.narrow or all(_finite(slot.value) for slot in found.slots):
            with contextlib.suppress(ModelError):
                result = self.reference.measure(copy)
        return Proof(copy, z, result, (*decisions, *notes))

    def holds(self, proof: Proof) -> bool:
        """True if the proof is within the tolerance."""
        return proof.equivalence.error <= self.tolerance

    def bisect(self, z: Array, exact: Array) -> Proof:
        """Pin the guilty tensors' classes and return what is left.

        They are searched for with powers of two, which show no rounding noise; `z` itself is tried on what is left.
        """
        blocks = _blocks(self.classes, z)
        kept = self._add(np.zeros_like(z), exact, list(blocks.values()))
        guilty = {name: ids for name, ids in blocks.items() if (kept[ids] != exact[ids]).any()}
        reason = "equalizing its channels changed the function; they keep their scale"
        notes = tuple(_rollback(name, reason) for name in guilty)
        wanted = z.copy()
        for ids in guilty.values():
            wanted[ids] = 0.0
        proof = self.run(wanted, notes)
        return proof if self.holds(proof) else self.run(kept, (*notes, _power_of_two(proof.equivalence)))

    def _add(self, base: Array, target: Array, blocks: list[Array]) -> Array:
        """Return `base` with `target` taken over for as many blocks as the proof allows."""
        trial = base.copy()
        for ids in blocks:
            trial[ids] = target[ids]
        if not (trial != base).any() or self.holds(self.run(trial)):
            return trial
        if len(blocks) == 1:
            return base
        middle = len(blocks) // 2
        return self._add(self._add(base, target, blocks[:middle]), target, blocks[middle:])


def _finite(value: ir.Value) -> bool:
    array = query.constant(value)
    return array is None or bool(np.isfinite(array).all())


def _rollback(where: str, reason: str) -> Decision:
    return Decision("equalize", "rollback", where, False, reason)


def _power_of_two(before: Equivalence) -> Decision:
    reason = (
        f"rounding alone moved '{before.output}' by {before.error:.1e}; scales were rounded to powers of two, which are"
        " exact"
    )
    return Decision("equalize", "power_of_two_scales", "whole network", True, reason)


def _blocks(classes: ScaleClasses, z: Array) -> dict[str, Array]:
    """Return the moving classes that each node with constants brings in, in graph order."""
    seen = np.zeros(classes.count, dtype=bool)
    blocks: dict[str, Array] = {}
    for slot in classes.slots:
        ids = np.union1d(slot.gain, slot.loss)
        ids = ids[(ids != 0) & ~seen[ids] & (z[ids] != 0)]
        if ids.size:
            seen[ids] = True
            name = query.label(slot.node)
            blocks[name] = np.union1d(blocks[name], ids) if name in blocks else ids
    return blocks
