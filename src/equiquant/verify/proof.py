"""Apply an equalization plan only as far as it can be proven to keep the function.

The plan is applied to a copy and compared with the original. If the error exceeds the tolerance, the log-scales are
first rounded to powers of two, whose products are exact in floating point: that tells rounding noise of a deep network
from a wrong rule. If that fails too, the classes are bisected to the guilty ones, which keep their scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization.apply import apply
from equiquant.equalization.classes import ScaleClasses, find_classes
from equiquant.errors import ModelError
from equiquant.graph import query
from equiquant.verify.equivalence import Equivalence, Reference

__all__ = ["Proof", "apply_proven"]

Array = npt.NDArray[Any]


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
        tolerance: Largest error allowed, relative to the output's magnitude.
    """
    trial = _Trial(model, classes, reference, tolerance)
    proof = trial.run(z)
    if trial.holds(proof):
        return proof
    exact = np.log(2.0) * np.rint(z / np.log(2.0))
    rounded = trial.run(exact)
    if trial.holds(rounded):
        note = Decision(
            "equalize",
            "power_of_two_scales",
            "whole network",
            True,
            f"rounding alone moved '{proof.equivalence.output}' by {proof.equivalence.error:.1e}; scales were rounded"
            " to powers of two, which are exact",
        )
        return Proof(rounded.model, exact, rounded.equivalence, (*rounded.decisions, note))
    return trial.bisect(z)


@dataclass(frozen=True, eq=False)
class _Trial:
    model: ir.Model
    classes: ScaleClasses
    reference: Reference
    tolerance: float

    def run(self, z: Array) -> Proof:
        """Apply `z` to a copy and measure it."""
        copy = self.model.clone()
        decisions = apply(copy, self._on(copy), z)
        try:
            result = self.reference.measure(copy)
        except ModelError:
            result = Equivalence(float("inf"), "", 0)
        return Proof(copy, z, result, tuple(decisions))

    def holds(self, proof: Proof) -> bool:
        """True if the proof is within the tolerance."""
        return proof.equivalence.error <= self.tolerance

    def bisect(self, z: Array) -> Proof:
        """Pin the guilty tensors' classes and return what is left."""
        blocks = _blocks(self.classes, z)
        decisions: list[Decision] = []
        kept = z.copy()
        for name, ids in self._guilty(z, list(blocks.items())):
            kept[ids] = 0.0
            reason = "equalizing its channels changed the function; they keep their scale"
            decisions.append(Decision("equalize", "rollback", name, False, reason))
        proof = self.run(kept)
        if not self.holds(proof):  # what is left interacts: give up on all of it
            reason = "equalization changed the function and no single tensor is to blame; nothing was rescaled"
            decisions = [Decision("equalize", "rollback", "whole network", False, reason)]
            proof = self.run(np.zeros_like(z))
        return Proof(proof.model, proof.z, proof.equivalence, (*proof.decisions, *decisions))

    def _guilty(self, z: Array, blocks: list[tuple[str, Array]]) -> list[tuple[str, Array]]:
        only = np.zeros_like(z)
        for _, ids in blocks:
            only[ids] = z[ids]
        if not blocks or self.holds(self.run(only)):
            return []
        if len(blocks) == 1:
            return blocks
        middle = len(blocks) // 2
        return self._guilty(z, blocks[:middle]) + self._guilty(z, blocks[middle:])

    def _on(self, copy: ir.Model) -> ScaleClasses:
        """Return the same classes as seen from a copy of the model: the walk is deterministic."""
        return find_classes(copy)


def _blocks(classes: ScaleClasses, z: Array) -> dict[str, Array]:
    """Return, for each layer in graph order, the moving classes its output brings in."""
    seen = np.zeros(classes.count, dtype=bool)
    blocks: dict[str, Array] = {}
    for slot in classes.slots:
        if slot.role != "weight":
            continue
        ids = np.unique(slot.gain)
        ids = ids[(ids != 0) & ~seen[ids] & (z[ids] != 0)]
        if ids.size:
            seen[ids] = True
            blocks[query.label(slot.node)] = ids
    return blocks
