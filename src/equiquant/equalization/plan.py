"""The equalization plan: the log-scale of every class, by the documented algorithm or by the global one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.equalization.builder import Slot
from equiquant.equalization.classes import ScaleClasses
from equiquant.equalization.network import coupling_of, couplings
from equiquant.graph import query
from equiquant.numerics.parallel import parallel
from equiquant.numerics.ranges.chosen import ChosenRanges
from equiquant.numerics.ranges.clipping import solve_clipped
from equiquant.numerics.ranges.curve import tensor_curve, weight_curve
from equiquant.numerics.ranges.noise import RangeNoise, WeightRange
from equiquant.numerics.ranges.powers_of_two import solve_powers_of_two
from equiquant.numerics.scales.global_solver import solve_global
from equiquant.numerics.scales.noise import NoiseTerm
from equiquant.numerics.scales.pairwise import DEAD, solve_pairwise

__all__ = [
    "Bounds",
    "EqualizationPlan",
    "LayerSpread",
    "Ranges",
    "clip_bounds",
    "plan_global",
    "plan_pairwise",
    "plan_ranges",
    "settle_ranges",
    "spread",
    "with_noise",
]

Array = npt.NDArray[Any]
Bounds = tuple[Array, Array]
Ranges = ChosenRanges

SAME = 0.02  # difference of two log-scales that a range need not follow


@dataclass(frozen=True, eq=False)
class EqualizationPlan:
    """What equalization will do, before any weight is touched.

    Attributes:
        method: The solver that found it.
        z: (classes,) log-scale of each class; 0 for class 0.
        steps: Sweeps of the pairwise solver, evaluations of the global one.
        ranges: The ranges chosen with the scales; None leaves them to calibration.
        settled: The same with those of some activations as more samples want them: what is kept in the end. The scales,
            and what the plan is measured with, come from fewer. Of a plan without ranges, these alone.
        widened: The same with those of all activations: what is kept if it measures better.
        noise: Noise over signal that weights, biases and tensors with such a range make, clipping included, by (kind,
            name).
    """

    method: str
    z: Array
    steps: int
    ranges: Ranges | None = None
    settled: Ranges | None = None
    widened: Ranges | None = None
    noise: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def of_activations(self) -> EqualizationPlan:
        """Return the plan without the ranges of weights."""
        ranges = None if self.ranges is None else self.ranges.without(lambda key: key[0] == "weight")
        return replace(self, ranges=ranges)

    def moved_to(self, classes: ScaleClasses, z: Array) -> EqualizationPlan:
        """Return the plan with other log-scales, (classes,), and those of its ranges that still fit."""
        ranges, settled, widened = (self.ranges_at(classes, z, r) for r in (self.ranges, self.settled, self.widened))
        return replace(self, z=z, ranges=ranges, settled=settled, widened=widened)

    def ranges_at(self, classes: ScaleClasses, z: Array, ranges: Ranges | None) -> Ranges | None:
        """Return those of its ranges that still fit where log-scales other than planned, (classes,), were applied."""
        moved = np.abs(z - self.z) > SAME
        if ranges is None or not moved.any():
            return ranges
        stale = {("activation", value.name or "") for value, ids in classes.values.items() if moved[ids].any()}
        stale |= {
            (slot.role, query.label(slot.node))
            for slot in classes.slots
            if moved[slot.gain].any() or moved[slot.loss].any()
        }
        return ranges.without(stale.__contains__)


@dataclass(frozen=True)
class LayerSpread:
    """Ratio of the largest to the median range among the channels of one weight; dead channels do not count.

    Its logarithm to base 2 is how many bits of the shared scale a typical channel goes without. The smallest range
    would say less: a channel that hardly matters may have any.

    Attributes:
        node: The layer.
        op_type: Its op.
        channels: Output channels.
        before: Ratio over output channels before equalization.
        after: The same after.
        free: Output channels that may be rescaled.
        pinned_by: Why the others may not; empty if all may.
    """

    node: str
    op_type: str
    channels: int
    before: float
    after: float
    free: int
    pinned_by: str


def plan_pairwise(classes: ScaleClasses, bounds: Bounds, *, steps: int, append_bias: bool) -> EqualizationPlan:
    """Choose the log-scales by the documented pairwise algorithm.

    Args:
        classes: The scale classes.
        bounds: From `clip_bounds`.
        steps: Sweeps; −1 until convergence.
        append_bias: A producer's range includes its bias.
    """
    result = solve_pairwise(couplings(classes), classes.count, bounds, steps=steps, append_bias=append_bias)
    return EqualizationPlan("pairwise", result.z, result.sweeps)


def plan_global(terms: Sequence[NoiseTerm], start: Array, bounds: Bounds | None) -> EqualizationPlan:
    """Choose the log-scales that minimise the noise of the whole network, ranges reaching the largest values.

    Args:
        terms: From `noise_terms`.
        start: (classes,) where to begin.
        bounds: From `clip_bounds`; None where nothing is bounded.
    """
    result = solve_global(terms, start, bounds)
    return EqualizationPlan("global", result.z, result.evaluations)


def plan_ranges(
    weights: Sequence[WeightRange],
    tensors: Sequence[RangeNoise],
    plan: EqualizationPlan,
    bounds: Bounds | None,
    method: str,
    *,
    powers_of_two: bool = False,
) -> EqualizationPlan:
    """Choose ranges that may clip, and the log-scales with them unless `bounds` is None.

    Args:
        weights: From `range_terms`.
        tensors: From `range_terms`.
        plan: Where to begin.
        bounds: Smallest and largest log-scale of each class; None keeps those of `plan`.
        method: What to call the result.
        powers_of_two: Every step is a power of two.
    """
    solver = solve_powers_of_two if powers_of_two else solve_clipped
    result = solver(weights, tensors, plan.z, (plan.z.copy(), plan.z.copy()) if bounds is None else bounds)
    return EqualizationPlan(method, result.z, plan.steps + result.evaluations, result.ranges)


def settle_ranges(plan: EqualizationPlan, tensors: Sequence[RangeNoise], *, powers_of_two: bool = False) -> Ranges:
    """Return the ranges of a plan with those of some activations chosen anew, the scales kept, for more samples.

    Args:
        plan: From `plan_ranges`.
        tensors: These activations, from `range_terms` for these samples.
        powers_of_two: Every step is a power of two.
    """
    first = plan.ranges
    assert first is not None
    if not tensors:
        return first
    anew = plan_ranges([], tensors, plan, None, plan.method, powers_of_two=powers_of_two).ranges
    assert anew is not None
    fresh = anew.without(lambda key: key not in first.ends)
    ends, costs = {**first.ends, **fresh.ends}, {**first.costs, **fresh.costs}
    return replace(first, ends=ends, costs=costs)


def with_noise(
    plan: EqualizationPlan, weights: Sequence[WeightRange], tensors: Sequence[RangeNoise]
) -> EqualizationPlan:
    """Return a plan that chose ranges with what each of them costs.

    Args:
        plan: From `plan_ranges`.
        weights: From `range_terms`.
        tensors: From `range_terms`: each by itself, whichever share a range.
    """
    assert plan.ranges is not None
    ends = {key: np.array(end) for key, end in plan.ranges.ends.items()}
    noise = {key: weight_curve(w, plan.z, ends[key]) for w in weights if (key := ("weight", w.name)) in ends}
    for tensor in tensors:
        if (key := (tensor.kind, tensor.name)) in ends:
            noise[key] = tensor_curve(tensor, plan.z, ends[key], 0, ends[key][:1])
    return replace(plan, noise={key: float(cost[0]) for key, cost in noise.items()})


def clip_bounds(
    classes: ScaleClasses, largest: Mapping[str, Array], margin: float, *, silent_move: bool = True
) -> Bounds:
    """Return the smallest and largest log-scale of each class that no Clip(0, c) would notice.

    A channel whose largest calibrated value, with a margin, stays below c may grow until it meets c; one that comes
    nearer, or was not calibrated, keeps its scale, and so does the bound.

    Args:
        classes: The scale classes.
        largest: The largest value of each channel of what goes into the Clips, (C,), by tensor name; empty if nothing
            was calibrated.
        margin: Part of it that other samples may lie beyond it.
        silent_move: Channels that were never above 0 may move without end; they tell nothing of how far they would go.
    """
    lower, upper = np.full(classes.count, -np.inf), np.full(classes.count, np.inf)
    for site in classes.clips:
        lower[site.bound_id] = upper[site.bound_id] = 0.0
        seen = largest.get(query.name_of(site.node.inputs[0]))
        if seen is None or site.ids.size != seen.size:
            lower[site.ids] = upper[site.ids] = 0.0
            continue
        ids, high = site.ids.reshape(-1), np.maximum(seen * (1 + margin), 1e-30)
        near, still = high >= site.bound, (seen <= 0) & (not silent_move)
        lower[ids[near | still]] = 0.0
        np.minimum.at(upper, ids, np.where(near | still, 0.0, np.log(site.bound / high)))
    return lower, upper


def spread(classes: ScaleClasses, z: Array) -> list[LayerSpread]:
    """Return the channel range spread of every layer before and after log-scales `z`, (classes,)."""
    weights = [slot for slot in classes.slots if slot.role == "weight"]
    return parallel(lambda slot: _layer(slot, classes, z), weights)


def _layer(slot: Slot, classes: ScaleClasses, z: Array) -> LayerSpread:
    coupling = coupling_of(slot, None)
    fade = np.exp(-z[coupling.columns]).astype(np.float32)
    faded = coupling.magnitude * fade[:, None, :]
    pin = classes.pins.get(slot.node.outputs[0])
    return LayerSpread(
        node=query.label(slot.node),
        op_type=slot.node.op_type,
        channels=coupling.rows.size,
        before=_ratio(coupling.magnitude.max(axis=2, initial=0.0)),
        after=_ratio(faded.max(axis=2, initial=0.0) * np.exp(z[coupling.rows])),
        free=int((coupling.rows != 0).sum()),
        pinned_by=f"{pin.reason} ({pin.node})" if pin is not None else "",
    )


def _ratio(rows: Array) -> float:
    live = rows[rows > DEAD * rows.max(initial=0.0)]
    return float(live.max() / np.median(live)) if live.size else 1.0
