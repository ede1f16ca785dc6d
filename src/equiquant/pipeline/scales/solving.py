"""Solve for the scales: calibrate channels, measure noise gains, and run the solvers asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import calibrate, target
from equiquant.backward import Ends, Gains, measure_gains
from equiquant.calibrate import SampleView
from equiquant.equalization import (
    EqualizationPlan,
    QuantizerModel,
    ScaleClasses,
    Sketches,
    awakened,
    clip_bounds,
    cut_ends,
    join_ranges,
    noise_terms,
    operands,
    plan_global,
    plan_pairwise,
    plan_ranges,
    range_terms,
    settle_ranges,
    share_ranges,
    with_noise,
)
from equiquant.graph.decisions import decision_values
from equiquant.io import expose, model_bytes, release_memory
from equiquant.numerics.ranges.noise import RangeNoise, WeightRange
from equiquant.numerics.scales.noise import NoiseTerm
from equiquant.numerics.statistics.figures import ChannelFigures
from equiquant.numerics.statistics.tail import FEW_VALUES
from equiquant.pipeline.scales.clip_reach import ClipReach, channel_axis, clipped, output_axis, plain, reach_seen
from equiquant.recipe import Recipe

__all__ = [
    "SOLVING_STEPS",
    "ChannelStatistics",
    "channel_gains",
    "channel_statistics",
    "chooses_ranges",
    "quantizer_model",
    "solve",
]

Array = npt.NDArray[Any]

BACKWARD_COST = 4  # a backward pass over a forward one
MOST_DRAWS = 4  # random directions a feed, for the noise gains
RANGES_BELOW = 100_000_000  # bytes of weights; above, weighing every large weight would cost more than it gives
SOLVING_STEPS = 4  # statistics, gains, scales and ranges
MEASURE_BELOW = 100_000_000  # bytes of weights; above, `auto` trusts the solver that global beats pairwise


def solve(
    model: ir.Model,
    classes: ScaleClasses,
    recipe: Recipe,
    survey: target.Survey | None,
    samples: SampleView,
    affordable: int,
    reach: ClipReach | None = None,
    rest: SampleView | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[EqualizationPlan], list[NoiseTerm]]:
    """Solve for the scales by every method asked for, the plan that changes nothing first.

    Args:
        model: The folded float model; not changed.
        classes: Its scale classes.
        recipe: Names the methods, and the quantizer that will follow.
        survey: What will be quantized; None where nothing can be, so that only the pairwise solver has a say.
        samples: What to calibrate on.
        affordable: Feeds that float inference can run in the time the noise gains may cost.
        reach: What the Clips see; None for what they see of the samples.
        rest: Further samples, which settle ranges once the scales are chosen; None for none.
        progress: Called with the number of steps done, of `SOLVING_STEPS` or less.

    Returns:
        The plans, and the noise terms: empty where only the pairwise solver ran, or no gradient told anything.

    Raises:
        ModelError: No gradients can be computed.
    """
    told = progress or (lambda _: None)
    nothing = EqualizationPlan("none", np.zeros(classes.count), 0)
    ranged = chooses_ranges(recipe, model)
    if not ranged and (recipe.cle_method == "pairwise" or not recipe.cle):
        survey = None  # a solver that knows of no noise
    tensors = () if survey is None else survey.calibrated
    seen = channel_statistics(recipe, model, classes, tensors, samples)
    told(1)
    figures, sketches, count = seen.figures, seen.sketches, seen.samples
    if reach is None:
        reach = reach_seen(sketches, count)
    bounds = clip_bounds(classes, reach.largest, reach.margin, silent_move=not reach.halves)
    plans = [nothing]
    if recipe.cle:
        # where `global` begins is no option
        steps, append_bias = (1, True) if recipe.cle_method == "global" else (recipe.cle_steps, recipe.cle_append_bias)
        plans.append(plan_pairwise(classes, bounds, steps=steps, append_bias=append_bias))
    if survey is None:
        return plans, []
    quantizer = quantizer_model(survey, bias_corrected=recipe.bias_correction)
    clipping = ranged or (recipe.clip_mode == "soft" and recipe.cle)
    rounded = {name: figure for name, figure in figures.items() if name in quantizer.tensors}
    ends = cut_ends(classes, rounded, sketches) if clipping else {}
    gains = channel_gains(model, classes, figures, quantizer, samples, affordable, ends)
    told(2)
    figures, gains = awakened(classes, figures, gains, count)
    own = noise_terms(classes, figures, gains, quantizer, sketches)
    terms = share_ranges(own, quantizer.shared)
    if not any(term.exact(nothing.z) for term in terms):  # no noise reaches an output, or none that is finite
        return plans, []
    if recipe.cle and recipe.cle_method != "pairwise":
        plans.append(plan_global(terms, plans[-1].z, bounds))
    told(3)
    if clipping:
        plans = _with_ranges(recipe, classes, plans, range_terms(classes, own, sketches, ends), bounds, quantizer)
    if ranged:  # of a single feed, too, which shows few values of pooled features
        more = None if rest is None else channel_statistics(recipe, model, classes, tensors, rest)
        plans = _settled(recipe, classes, plans, seen, more, (own, ends), quantizer)
    told(4)
    if recipe.cle_method == "global" or (recipe.cle_method == "auto" and model_bytes(model) > MEASURE_BELOW):
        plans = [plan for plan in plans if not plan.method.startswith("pairwise")]
    return plans, terms


def chooses_ranges(recipe: Recipe, model: ir.Model | None = None) -> bool:
    """True if the quantizer may take its ranges from the solver; of a model given, unless it is too large."""
    given = recipe.calibration == "minmse" and recipe.scale_kind == "power_of_two" and recipe.cle
    chosen = recipe.calibration == "noise" or given
    return chosen and recipe.cle_method != "pairwise" and (model is None or model_bytes(model) < RANGES_BELOW)


def _with_ranges(
    recipe: Recipe,
    classes: ScaleClasses,
    plans: list[EqualizationPlan],
    terms: tuple[list[WeightRange], list[RangeNoise]],
    bounds: tuple[np.ndarray, np.ndarray],
    quantizer: QuantizerModel,
) -> list[EqualizationPlan]:
    """Add plans whose ranges may clip: the last plan's, its scales solved again with them, and the `soft` one.

    With a range for each channel weights lose little by reaching their largest: only activations may clip then, and
    only `soft` moves the scales. Where Clips yield, each tensor is taken to have a range of its own.
    """
    weights, tensors = terms
    weighed = not recipe.per_channel
    last = plans[-1]
    fixed = last.method != "global" or not weighed
    powers = recipe.scale_kind == "power_of_two"
    name = f"{last.method}+{'powers' if powers else 'ranges'}"
    given = weights if weighed else []
    joint = join_ranges(tensors, quantizer.shared)
    added = [plan_ranges(given, joint, last, None if fixed else bounds, name, powers_of_two=powers)]
    if recipe.clip_mode == "soft" and recipe.cle and classes.clips:
        free = (np.full(classes.count, -np.inf), np.full(classes.count, np.inf))
        yielding = [replace(t, yields=np.isfinite(t.bound) and t.bound_id != 0) for t in tensors]
        soft = plan_ranges(weights, yielding, last, free, "soft", powers_of_two=powers)
        added.append(soft if weighed else soft.of_activations())
    if chooses_ranges(recipe):
        return [*plans, *(with_noise(plan, weights, tensors) for plan in added)]
    return [*plans, *(EqualizationPlan(plan.method, plan.z, plan.steps) for plan in added)]


def _settled(
    recipe: Recipe,
    classes: ScaleClasses,
    plans: list[EqualizationPlan],
    seen: ChannelStatistics,
    more: ChannelStatistics | None,
    noise: tuple[Sequence[NoiseTerm], Mapping[str, Ends]],
    quantizer: QuantizerModel,
) -> list[EqualizationPlan]:
    """Give the plans the ranges that further samples want: of what shows few values, and those that chose any of all.

    Args:
        recipe: Says whether steps are powers of two.
        classes: The scale classes.
        plans: The plans.
        seen: What the scales were chosen by.
        more: The same of the further samples, if there are any.
        noise: The noise terms, and the ends of the tensors.
        quantizer: Names the tensors that share a range.
    """
    own, ends = noise
    told = [term for term in own if term.kind == "activation"]
    sketches = seen.sketches if more is None else seen.sketches_with(more)
    every = join_ranges(range_terms(classes, told, sketches, ends)[1], quantizer.shared)
    few = seen.told_by_few()
    powers = recipe.scale_kind == "power_of_two"
    chosen = [t for t in every if t.name in few]

    def settled(plan: EqualizationPlan) -> EqualizationPlan:
        if plan.ranges is None:  # the largest values seen, which others would exceed
            room = plan_ranges([], chosen, plan, None, plan.method, powers_of_two=powers).ranges if chosen else None
            return replace(plan, settled=room)
        some = settle_ranges(plan, chosen, powers_of_two=powers)
        wide = settle_ranges(plan, every, powers_of_two=powers)
        return replace(
            plan,
            settled=some if some.ends != plan.ranges.ends else None,
            widened=wide if wide.ends not in (plan.ranges.ends, some.ends) else None,
        )

    return [settled(plan) for plan in plans]


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """What a calibration pass says of channels.

    Attributes:
        stats: All of it.
        rounded: Names of the tensors whose figures are asked for.
    """

    stats: calibrate.TensorStats
    rounded: frozenset[str]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.stats.samples

    @functools.cached_property
    def figures(self) -> Mapping[str, ChannelFigures]:
        """Figures of the channels, by tensor."""
        records = self.stats.tensors.items()
        return {name: record.channels for name, record in records if record.channels and name in self.rounded}

    @functools.cached_property
    def sketches(self) -> Mapping[str, Sketches]:
        """Both sides of the tensors that were sketched."""
        return {name: record.sketches for name, record in self.stats.tensors.items() if record.sketches}

    def told_by_few(self) -> frozenset[str]:
        """Return the tensors whose channels have shown so few values that others will lie well beyond them."""
        return frozenset(name for name, sides in self.sketches.items() if sides[0].count < FEW_VALUES)

    def sketches_with(self, other: ChannelStatistics) -> Mapping[str, Sketches]:
        """Return the sketches of what both have seen, of the other's tensors."""
        records = {name: self.stats.tensors[name].merge(record) for name, record in other.stats.tensors.items()}
        return {name: record.sketches for name, record in records.items() if record.sketches}


def channel_statistics(
    recipe: Recipe,
    model: ir.Model,
    classes: ScaleClasses,
    tensors: tuple[str, ...],
    samples: SampleView,
) -> ChannelStatistics:
    """Calibrate the channels of the tensors and of the Clips' outputs, in one pass.

    So are what the layers read, where noise is asked for: a Conv behind a Pad or a Concat reads a tensor that needs no
    range of its own. What goes into the Clips is sketched too, and every rounded tensor if ranges may clip.
    """
    values = {v.name or "": v for v in model.graph.inputs} | {v.name or "": v for n in model.graph for v in n.outputs}
    made = [site.node.outputs[0].name or "" for site in classes.clips]
    read = [slot.data.name or "" for slot in classes.layers if slot.data is not None] if tensors else []
    axes = {
        name: axis
        for name in dict.fromkeys([*tensors, *made, *read])
        if name in values and (axis := channel_axis(values[name], classes)) is not None
    }
    sources = clipped(classes)
    sketched = set(sources)
    if chooses_ranges(recipe, model) or recipe.clip_mode == "soft":
        sketched |= {name for name in axes if name in tensors and name not in made}
    stats = calibrate.collect(model, samples, (), plain(recipe), channels=sources | axes, sketches=sketched)
    return ChannelStatistics(stats, frozenset(axes))


def channel_gains(
    model: ir.Model,
    classes: ScaleClasses,
    figures: Mapping[str, ChannelFigures],
    quantizer: QuantizerModel,
    samples: SampleView,
    affordable: int,
    ends: Mapping[str, Ends] | None = None,
) -> Mapping[str, Gains]:
    """Measure the noise gains of the rounded tensors, the layers' outputs and, but of large models, the weights.

    So are those of what lies beyond a tensor's ends, where ends are given. Where biases are corrected, only what
    differs from its mean makes noise of a weight's error.
    """
    axes = {s.node.outputs[0].name or "": output_axis(s.node) for s in classes.slots if s.role == "weight"}
    made = [slot.node.outputs[0] for slot in operands(classes, quantizer.nodes)]
    axes |= {value.name or "": axis for value in made if (axis := channel_axis(value, classes)) is not None}
    axes |= {name: figure.axis for name, figure in figures.items() if name in quantizer.tensors}
    feeds = list(samples)
    draws = max(1, min(MOST_DRAWS, affordable // (BACKWARD_COST * len(feeds))))
    means: dict[str, Array] = {}
    if model_bytes(model) < RANGES_BELOW:
        known = {name: f.mean for name, f in figures.items() if f.axis == 1}
        means = known if quantizer.bias_corrected else {name: np.zeros_like(mean) for name, mean in known.items()}
    gains = measure_gains(expose(model, decision_values(model)), feeds, axes, means, ends, draws=draws)
    release_memory()
    return gains


def quantizer_model(survey: target.Survey, *, bias_corrected: bool) -> QuantizerModel:
    """Describe the quantizer that will follow to the solver."""
    chosen = survey.target
    return QuantizerModel(
        nodes=frozenset(survey.nodes),
        tensors=frozenset(survey.calibrated) - survey.wide,
        weight_levels=float(chosen.weight.qmax - chosen.weight.center),
        activation_levels=float(chosen.activation_levels),
        symmetric=chosen.activation_symmetric,
        per_channel=chosen.per_channel,
        shared=[group.sources for group in survey.groups if len(group.sources) > 1 and not group.wide],
        unsigned=survey.unsigned,
        unsigned_levels=float(chosen.activation.qmax - chosen.activation.qmin),
        bias_levels=None if chosen.bias.bits == 32 else float(chosen.bias.qmax),
        bias_corrected=bias_corrected,
    )
