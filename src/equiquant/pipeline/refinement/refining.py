"""The refinement stage: correct biases, round weights, and keep what measures best on samples held back.

One of every four samples is never fitted to (`splitting`). On these every candidate runs as it will be written, and is
compared with the float model; leaving the model as it is, is one of them. The samples fitted to are first of all those
that the scales and ranges come from: what a range cuts off others, weights could only make good at the expense of all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from equiquant import qdq
from equiquant.calibrate import SampleView, TensorStats
from equiquant.decisions import Decision
from equiquant.io import release_memory
from equiquant.pipeline.inputs.cuts import cut_inputs, with_cut_inputs
from equiquant.pipeline.measuring.judging import EQUAL_DB, MOST_FITTED, MOST_HELD, Yardstick, affordable_feeds
from equiquant.pipeline.measuring.loud_samples import loud_samples
from equiquant.pipeline.measuring.splitting import NOTHING_HELD, alternate, held_back
from equiquant.pipeline.scales.equalizing import Equalized
from equiquant.pipeline.state import RunState
from equiquant.refine import (
    ChannelMeans,
    Layer,
    Original,
    Refinement,
    layers_of,
    refine,
    refine_by_means,
    rounding_cost,
)
from equiquant.target import QuantPlan, target_of

__all__ = ["original_of", "refined", "refined_by_means", "refinements"]

MOST_AUTO = 48  # feeds fitted to where rounding was not asked for: more gave no more dB (docs/refinement.md)
FITTED_SECONDS = 0.75  # of float inference that the fitted feeds may cost, unless rounding is asked for
HELD_SECONDS = 0.3  # the same of those held back
LEAST_FITTED, LEAST_HELD = 16, 8  # where weights are rounded: for fewer, rounding fits what is no one else's
GLANCE_FEEDS = 12  # that biases alone are corrected on where rounding will correct them on all
MEANS_DB = 3.0  # that biases corrected by means may cost on made-up inputs, which the real ones are not like
AUTO_COST = 6e11  # multiplications that `auto` spends on rounding: about 20 s on two cores

WIDE = "it has too many inputs: their second moments would take gigabytes, so its weights go to the nearest step"
BY_MEANS = "biases are corrected by the means in the file of statistics; without data weights go to the nearest step"
HARMFUL_MEANS = (
    "biases corrected by the means in the file of statistics left {after:.1f} dB on made-up inputs, where {before:.1f}"
    " are left without: they stay, and without data weights go to the nearest step"
)
NO_MEANS = "the file of statistics holds no means of what layers read, and there are no data: nothing was refined"
NO_SAMPLES = "the statistics come from a file and there are no data: weights go to the nearest step"
NONE, BIASES, WEIGHTS, BOTH = "none", "bias correction", "rounding", "bias correction and rounding"


@dataclass(frozen=True, eq=False)
class _Trial:
    """One candidate and how it measured."""

    name: str
    model: ir.Model
    plan: QuantPlan
    sqnr_db: float
    samples: int


def refined(state: RunState, reference: ir.Model, equalized: Equalized, plan: QuantPlan) -> tuple[ir.Model, QuantPlan]:
    """Return the model and the plan with the refinement that measures best; what was given is not changed.

    Args:
        state: The run; gets the decisions and the report's section.
        reference: The float model that outputs are compared with: the original where its function was changed.
        equalized: The float model that is quantized.
        plan: How.
    """
    recipe, model = state.recipe, equalized.model
    layers, refused = layers_of(model, plan)
    candidates, against = refinements(state, layers)
    state.decisions += against
    asked = recipe.bias_correction or recipe.weight_rounding != "nearest"
    state.decisions += refused if asked else []
    if not candidates or not layers:
        return model, plan
    original = original_of(state, reference, equalized, layers, plan)
    fitted, held = _split(state, model, rounding=any(c.round_weights for c in candidates.values()))
    apart = set(fitted).isdisjoint(held)
    if not apart:
        state.decisions.append(NOTHING_HELD)
    with state.stages("refine"):
        yardstick = Yardstick(reference, SampleView.picked(state.stream, held), weighed=True)
        trials = [_Trial(NONE, model, plan, _sqnr_db(yardstick, model, plan), 0)]

        def tried(name: str, feeds: Sequence[int], done: int) -> _Trial:
            def progress(layer: int, of: int) -> None:
                state.progress("refine", done * of + layer, len(candidates) * of)

            some = SampleView.picked(state.stream, feeds)
            found = refine(model, plan, target_of(recipe), some, candidates[name], original, progress)
            release_memory()
            return _Trial(name, found.model, found.plan, _sqnr_db(yardstick, found.model, found.plan), found.samples)

        for done, name in enumerate(candidates):
            glance = name == BIASES and len(candidates) > 1
            trials.append(tried(name, fitted[: GLANCE_FEEDS if glance else None], done))
        best = _choose(trials)
        if best.name == BIASES and len(fitted) > GLANCE_FEEDS and best is not trials[-1]:  # it is to be kept: all count
            trials[trials.index(best)] = tried(BIASES, fitted, len(candidates) - 1)
            best = _choose(trials)
    state.decisions += loud_samples("refine", yardstick)
    if best.name == NONE:
        reason = f"nothing measured better than the {best.sqnr_db:.2f} dB without; weights and biases stay as they were"
        state.decisions.append(Decision("refine", "do_no_harm", "whole network", False, reason))
    wanted = {
        "weights": any(c.round_weights for c in candidates.values()),
        "biases": any(c.correct_bias for c in candidates.values()),
    }
    state.refinement = {
        "trials": [{"name": trial.name, "sqnr_db": trial.sqnr_db} for trial in trials],
        "kept": best.name,
        "layers": len(layers),
        "refined": [what for what, some in wanted.items() if some],
        "inputs": "quantized",
        "fitted": best.samples or trials[-1].samples,
        "held": len(held),
        "apart": apart,
    }
    return best.model, best.plan


def refined_by_means(
    state: RunState, model: ir.Model, plan: QuantPlan, stats: TensorStats
) -> tuple[ir.Model, QuantPlan]:
    """Return the model and the plan with biases corrected by the means of statistics; what was given is not changed.

    Weights are not rounded for made-up inputs. On these the biases must not do clear harm, as they may where hardly
    anything is left of the output: what ranges cut off moves the means on the way, which the statistics do not show.
    """
    means = {
        name: ChannelMeans(record.channels.mean, record.sums.count / max(1, stats.samples))
        for name, record in stats.tensors.items()
        if record.sums is not None and record.channels is not None
    }
    wanted = state.recipe.bias_correction and any(layer.takes_bias for layer in layers_of(model, plan)[0])
    with state.stages("refine"):
        found = refine_by_means(model, plan, target_of(state.recipe), means) if wanted else None
        reason = BY_MEANS if found is not None else NO_MEANS if wanted else NO_SAMPLES
        if found is not None:
            most = max(1, affordable_feeds(model, state.stream, HELD_SECONDS))
            feeds = range(state.stream.count_up_to(min(most, MOST_HELD)))
            yardstick = Yardstick(model, SampleView.picked(state.stream, feeds))
            before, after = (_sqnr_db(yardstick, *each) for each in ((model, plan), (found.model, found.plan)))
            if not after >= before - MEANS_DB:
                found, reason = None, HARMFUL_MEANS.format(after=after, before=before)
    state.decisions.append(Decision("refine", "no_data", "whole network", found is not None, reason))
    return (model, plan) if found is None else (found.model, found.plan)


def original_of(
    state: RunState, reference: ir.Model, equalized: Equalized, layers: list[Layer], plan: QuantPlan
) -> Original | None:
    """Return the network to aim at where it is not the one to quantize, if its layers lie between the same tensors."""
    factors = equalized.factors
    if factors is not None and not _same_layers(equalized.model, reference, layers):
        factors = None
    aim = equalized.model if factors is None else reference
    cuts = cut_inputs(_input_ends(state, aim, plan), itertools.islice(state.stream, MOST_AUTO))
    return None if factors is None and not cuts else Original(with_cut_inputs(aim, cuts), factors or {})


def _input_ends(state: RunState, model: ir.Model, plan: QuantPlan) -> dict[str, float]:
    """Return the ends of the inputs' ranges where steps are powers of two; others hardly cut inputs off."""
    known = plan.activations if state.recipe.scale_kind == "power_of_two" else {}
    params = {value.name or "": known[value.name or ""] for value in model.graph.inputs if value.name in known}
    return {name: float(p.scale) * (p.type.qmax - int(p.zero_point)) for name, p in params.items()}


def _same_layers(model: ir.Model, other: ir.Model, layers: list[Layer]) -> bool:
    here, there = _places(model), _places(other)
    return all(here[layer.name] == there.get(layer.name) for layer in layers)


def _places(model: ir.Model) -> dict[str, tuple[str, str, str]]:
    """Return kind, input and output of each node by name; a BatchNormalization is the Conv it is for the NPU."""
    found = {}
    for node in model.graph:
        kind = "Conv" if node.op_type == "BatchNormalization" else node.op_type
        source = node.inputs[0] if node.inputs else None
        found[node.name or ""] = kind, "" if source is None else source.name or "", node.outputs[0].name or ""
    return found


def _choose(trials: list[_Trial]) -> _Trial:
    """Return the last of those that are better than the first, the model as it is, and not clearly worse than the best.

    What comes later is expected to be better; a measurement on a few samples cannot always tell.
    """
    least = max(trial.sqnr_db for trial in trials) - EQUAL_DB
    better = [trial for trial in trials if trial.sqnr_db > trials[0].sqnr_db and trial.sqnr_db >= least]
    return better[-1] if better else trials[0]


def refinements(state: RunState, layers: list[Layer]) -> tuple[dict[str, Refinement], list[Decision]]:
    """Return what is to be tried, by name, in order, and which weights are not rounded where nobody said they are not.

    Args:
        state: The run.
        layers: What can be refined.
    """
    recipe, reason = state.recipe, ""
    correcting = recipe.bias_correction and any(layer.takes_bias for layer in layers)
    rounding = recipe.weight_rounding == "optimal"
    if recipe.weight_rounding == "auto" and state.stream.guessed:
        reason = (
            "weights rounded for made-up inputs would be worse on real ones; WeightRounding='optimal' does it anyway"
        )
    elif recipe.weight_rounding == "auto":
        cost = rounding_cost(layers)
        rounding = cost <= AUTO_COST
        if not rounding:
            reason = (
                f"it would take {cost / 1e12:.1f} million million multiplications, more than 'auto' spends"
                f" ({AUTO_COST / 1e12:g}); WeightRounding='optimal' rounds in any case"
            )
    against = [Decision("refine", "weight_rounding", "whole network", False, reason)] if reason else []
    if rounding:
        against += [Decision("refine", "weight_rounding", x.name, False, WIDE) for x in layers if not x.roundable]
    found = {}
    if correcting:
        found[BIASES] = Refinement(correct_bias=True, round_weights=False)
    if rounding and any(layer.roundable for layer in layers):
        found[BOTH if correcting else WEIGHTS] = Refinement(correct_bias=correcting, round_weights=True)
    return found, against


def _split(state: RunState, model: ir.Model, *, rounding: bool) -> tuple[Sequence[int], Sequence[int]]:
    """Return the numbers of the feeds to fit to, most wanted first, and of those held back; of a single one both."""
    stream = state.stream
    most = max(LEAST_FITTED if rounding else 1, affordable_feeds(model, stream, FITTED_SECONDS))
    back = max(LEAST_HELD if rounding else 1, affordable_feeds(model, stream, HELD_SECONDS))
    most = MOST_FITTED if state.recipe.weight_rounding == "optimal" else min(most, MOST_AUTO)
    known = stream.count_up_to(max(2 * most, most + MOST_HELD))
    held = held_back(known)[: min(back, MOST_HELD)]
    if known == 1:
        return held, held
    first, between = alternate(known)
    others = [*first, *(number for number in between if number not in held)]
    return others[:most], held


def _sqnr_db(yardstick: Yardstick, model: ir.Model, plan: QuantPlan) -> float:
    """Return how a model measures once the plan is inserted into a copy, which is let go."""
    quantized = model.clone()
    qdq.insert(quantized, plan)
    sqnr = yardstick.quantized_sqnr_db(quantized)
    del quantized
    release_memory()
    return sqnr
