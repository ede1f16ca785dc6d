"""Ranges of the inputs: no equalization moves them, so that they are the same for every plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from equiquant.equalization import EqualizationPlan, Ranges, ScaleClasses
from equiquant.pipeline.inputs.grids import input_grids
from equiquant.pipeline.inputs.steps import input_steps
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe
from equiquant.target import Survey

__all__ = ["InputRanges", "input_ranges"]

Key = tuple[str, str]


@dataclass(frozen=True, eq=False)
class InputRanges:
    """Ranges of inputs, by ("activation", name).

    Attributes:
        ends: Ends of each range per side of 0.
        noise: Noise over signal of the outputs that rounding the input makes; none where the input loses nothing.
        costs: The same by the exponent of the step, where steps are powers of two.
    """

    ends: Mapping[Key, tuple[float, ...]] = field(default_factory=dict)
    noise: Mapping[Key, float] = field(default_factory=dict)
    costs: Mapping[Key, Mapping[int, float]] = field(default_factory=dict)

    def exact(self, key: Key) -> bool:
        """True if the input of this name loses nothing."""
        return key in self.ends and key not in self.noise

    def given_to(self, plans: Sequence[EqualizationPlan]) -> list[EqualizationPlan]:
        """Return the plans with these ranges."""
        if not self.ends:
            return list(plans)
        return [
            replace(
                plan,
                ranges=self._in(plan.ranges or Ranges({})),
                settled=plan.settled and self._in(plan.settled),
                widened=plan.widened and self._in(plan.widened),
                noise={**plan.noise, **self.noise},
            )
            for plan in plans
        ]

    def _in(self, ranges: Ranges) -> Ranges:
        return replace(ranges, ends={**ranges.ends, **self.ends}, costs={**ranges.costs, **self.costs})


def input_ranges(
    state: RunState,
    model: ir.Model,
    classes: ScaleClasses,
    survey: Survey | None,
    recipe: Recipe,
    affordable: int,
    plans: Sequence[EqualizationPlan],
) -> InputRanges:
    """Return the ranges of inputs that are known better than by the plans; none of a float model that is handed on.

    Args:
        state: The run; gets the decisions.
        model: The folded float model; only read.
        classes: Its scale classes.
        survey: What will be quantized, if anything is.
        recipe: Whether ranges are chosen for least noise.
        affordable: Feeds that float inference can run in the time it may cost.
        plans: The plans; others are compared with the ranges of the last that chose any.
    """
    if survey is None or not state.quantize:
        return InputRanges()
    ends, decisions = input_grids(model, survey, recipe, state.stream)
    noise: dict[Key, float] = {}
    costs: dict[Key, Mapping[int, float]] = {}
    last = next((plan for plan in reversed(plans) if plan.ranges is not None), None)
    chosen = [] if last is None else [r for r in (last.ranges, last.settled, last.widened) if r is not None]
    for step in input_steps(model, classes, survey, state.stream, affordable, chosen):
        key = ("activation", step.name)
        ends[key], noise[key], costs[key] = (step.end,), step.noise, step.costs
        decisions.append(step.decision)
    state.decisions += decisions
    return InputRanges(ends, noise, costs)
