"""Apply an equalization plan only as far as it can be proven to keep the function.

The plan is applied to a copy and compared with the original. What exceeds the tolerance is either a wrong rule or the
rounding of a deep network, whose largest error is one draw of many. So the log-scales are first shrunk by a thousandth
or less, which keeps whatever bounds them and rounds every weight anew. If that does not help, they are rounded to
powers of two, whose products are exact in floating point: if the proof then holds the rules are right, and no more
layers are rounded than it takes. If that fails too, the tensors are bisected: halves are added to what is already
proven and kept as long as the proof holds, so that only the guilty ones keep their scale.

Models with float16 or bfloat16 constants get powers of two from the start, because any other factor would round every
weight anew; what is left is the loss of the smallest numbers, less than one unit in the last place of the output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization.apply import apply, powers_of_two
from equiquant.equalization.classes import ScaleClasses, find_classes
from equiquant.errors import ModelError, first_line
from equiquant.graph import query
from equiquant.io import release_memory
from equiquant.verify.equivalence import Equivalence, Reference

__all__ = ["Proof", "apply_known", "apply_proven"]

Array = npt.NDArray[Any]

DRAWS, SHRINK = 4, 2.0**-12  # times that rounding is drawn anew, and by how much more each time
NEAR = 3.0  # times the tolerance: errors up to there are drawn anew
SEARCHES = 4  # for the layers that must be rounded: within a sixteenth of them
UNSTEADY = "the model's outputs differ from those it gave before even where nothing moves: nothing can be proven"
BEYOND = "a constant leaves the range of its type"
UNIT = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7}  # one unit in the last place, relative


@dataclass(frozen=True, eq=False)
class Proof:
    """An equalized model, with the evidence.

    Attributes:
        model: The equalized model.
        z: (classes,) the log-scales that were kept.
        equivalence: Original against equalized; an infinite error where nothing was measured.
        decisions: Copies made, classes rolled back.
        failure: Why nothing was measured; empty where it was.
    """

    model: ir.Model
    z: Array
    equivalence: Equivalence
    decisions: tuple[Decision, ...]
    failure: str = ""

    @property
    def moved(self) -> str:
        """What became of the output that differs most, to put after what was applied."""
        if self.failure:
            return f"cannot be compared ({self.failure})"
        return f"moved '{self.equivalence.output}' by {self.equivalence.error:.1e} of its magnitude"


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
    nothing, unit = np.zeros_like(z), _unit(classes)
    trial = _Trial(model, classes, reference, max(tolerance, unit), unit > 0)
    if reference.silent:
        reason = (
            f"the original model's '{reference.silent[0]}' is NaN or infinite on these inputs: nothing can be proven"
        )
        return trial.run(nothing, (_rollback("whole network", reason),))
    exact = powers_of_two(classes, z)
    proof = trial.tried(exact if unit else z)
    if trial.holds(proof):
        return proof
    if not unit and proof.equivalence.error < NEAR * tolerance:
        for draw in range(1, DRAWS + 1):
            drawn = trial.tried(z * (1 - draw * SHRINK), (_drawn_anew(proof.equivalence, draw),))
            if trial.holds(drawn):
                return drawn
    rounded = trial.tried(exact, (_power_of_two(proof, "whole network"),), keep=unit > 0)
    if trial.holds(rounded):
        return rounded if unit else trial.least_rounded(z, rounded, proof)
    return trial.bisect(z, rounded)


def apply_known(model: ir.Model, classes: ScaleClasses, z: Array, reference: Reference) -> Proof:
    """Return a copy of `model` with scales that were proven before, applied as they are, and how it compares.

    Args:
        model: The float model; not changed.
        classes: Its scale classes.
        z: (classes,) log-scales to apply.
        reference: The original model's outputs.
    """
    return _Trial(model, classes, reference, np.inf, _unit(classes) > 0).run(z)


def _unit(classes: ScaleClasses) -> float:
    """Return one unit in the last place of the narrowest float type among the tensors, relative; 0 for float32."""
    return max((UNIT.get(v.dtype, 0.0) for v in classes.values if v.dtype is not None), default=0.0)


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
        copy, found, decisions = self._applied(z)
        result, failure = Equivalence(float("inf"), "", 0), BEYOND
        if not self.narrow or all(_finite(slot.value) for slot in found.slots):
            try:
                result, failure = self.reference.measure(copy), ""
            except ModelError as error:
                failure = first_line(error)
        return Proof(copy, z, result, (*decisions, *notes), failure)

    def tried(self, z: Array, notes: tuple[Decision, ...] = (), *, keep: bool = True) -> Proof:
        """Run; unless it holds and is to be kept the copy is let go, and the proof has the model as it was.

        Every copy has weights of its own, and it may take a dozen to find the one that stays.
        """
        proof = self.run(z, notes)
        return proof if keep and self.holds(proof) else replace(proof, model=self.model)

    def _applied(self, z: Array) -> tuple[ir.Model, ScaleClasses, list[Decision]]:
        """Return a copy with `z`, its classes and what had to be copied in it."""
        release_memory()  # of the copies before
        copy = self.model.clone()
        found = find_classes(copy)  # the walk is deterministic: the same classes
        return copy, found, apply(copy, found, z)

    def holds(self, proof: Proof) -> bool:
        """True if the proof was measured to be within the tolerance."""
        return not proof.failure and proof.equivalence.error <= self.tolerance

    def least_rounded(self, z: Array, rounded: Proof, before: Proof) -> Proof:
        """Round only the first layers, as few as it takes; all of them being `rounded`.

        Args:
            z: (classes,) the log-scales as planned.
            rounded: The proof with every layer rounded, which holds; of its model no use is made.
            before: The proof of the plan as it is.
        """
        blocks = list(_blocks(self.classes, z).items())
        failing, holding, best = 0, len(blocks), rounded
        for _ in range(SEARCHES):
            count = (failing + holding) // 2
            if count == failing:
                break
            trial = _with(z, rounded.z, [ids for _, ids in blocks[:count]])
            notes = (_power_of_two(before, f"up to {blocks[count - 1][0]}"),)
            proof = self.tried(trial, notes, keep=False)
            if self.holds(proof):
                holding, best = count, proof
            else:
                failing = count
        return replace(best, model=self._applied(best.z)[0])

    def bisect(self, z: Array, whole: Proof) -> Proof:
        """Pin the guilty tensors' classes and return what is left.

        They are searched for with powers of two, which show no rounding noise; `z` itself is tried on what is left.

        Args:
            z: (classes,) the log-scales as planned.
            whole: The proof with every layer rounded, which does not hold.
        """
        blocks, exact = _blocks(self.classes, z), whole.z
        kept = self._add(np.zeros_like(z), exact, list(blocks.values()), failing=True)
        guilty = {name: ids for name, ids in blocks.items() if (kept[ids] != exact[ids]).any()}
        reason = "equalizing its channels changed the function; they keep their scale"
        if whole.failure:
            reason = f"its channels keep their scale: with all that was planned nothing can be proven. {whole.failure}"
        notes = tuple(_rollback(name, reason) for name in guilty)
        proof = self.tried(_with(z, np.zeros_like(z), guilty.values()), notes)
        if self.holds(proof):
            return proof
        rounded = self.tried(kept, (*notes, _power_of_two(proof, "whole network")))
        if self.holds(rounded):
            return rounded
        reason = (
            f"the model no longer runs, so nothing can be proven. {rounded.failure}" if rounded.failure else UNSTEADY
        )
        return self.run(np.zeros_like(z), (_rollback("whole network", reason),))

    def _add(self, base: Array, target: Array, blocks: list[Array], *, failing: bool) -> Array:
        """Return `base` with `target` taken over for as many blocks as the proof allows: not all, if `failing`."""
        trial = _with(base, target, blocks)
        if not failing and (not (trial != base).any() or self.holds(self.run(trial))):
            return trial
        if len(blocks) <= 1:
            return base
        first, rest = blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]
        half = self._add(base, target, first, failing=False)
        # with the whole first half the rest would make the trial that failed
        return self._add(half, target, rest, failing=np.array_equal(half, _with(base, target, first)))


def _with(base: Array, target: Array, blocks: Iterable[Array]) -> Array:
    """Return `base` with `target` taken over for these blocks."""
    merged = base.copy()
    for ids in blocks:
        merged[ids] = target[ids]
    return merged


def _finite(value: ir.Value) -> bool:
    array = query.constant(value)
    return array is None or bool(np.isfinite(array).all())


def _rollback(where: str, reason: str) -> Decision:
    return Decision("equalize", "rollback", where, False, reason)


def _drawn_anew(before: Equivalence, draw: int) -> Decision:
    reason = (
        f"rounding alone moved '{before.output}' by {before.error:.1e}; shrunk by {draw * SHRINK:.2%} the scales round"
        " otherwise"
    )
    return Decision("equalize", "shrunk_scales", "whole network", True, reason)


def _power_of_two(before: Proof, where: str) -> Decision:
    reason = f"these scales {before.moved}; powers of two, whose products are not rounded, do not"
    if before.failure:
        reason = f"nothing could be proven with these scales, but with powers of two. {before.failure}"
    return Decision("equalize", "power_of_two_scales", where, True, reason)


def _blocks(classes: ScaleClasses, z: Array) -> dict[str, Array]:
    """Return the moving classes that each node with constants brings in, in graph order.

    What a Clip's bound holds together moves together: its node brings in the bound too.
    """
    seen = np.zeros(classes.count, dtype=bool)
    blocks: dict[str, Array] = {}
    for slot in classes.slots:
        ids = _with_bounds(classes, np.union1d(slot.gain, slot.loss))
        ids = ids[(ids != 0) & ~seen[ids] & (z[ids] != 0)]
        if ids.size:
            seen[ids] = True
            name = query.label(slot.node)
            blocks[name] = np.union1d(blocks[name], ids) if name in blocks else ids
    return blocks


def _with_bounds(classes: ScaleClasses, ids: Array) -> Array:
    """Return class ids together with all those that the same Clips hold."""
    for site in classes.clips:
        held = np.union1d(site.ids, site.bound_id)
        held = held[held != 0]
        if np.isin(held, ids).any():
            ids = np.union1d(ids, held)
    return ids
