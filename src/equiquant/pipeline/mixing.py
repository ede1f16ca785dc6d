"""Mixed precision: how much harm each layer's rounding does, and which layers to raise to 16 bits or leave float.

Two figures a layer, each the signal-to-noise ratio of the network's decisions if that layer alone were rounded:

- estimated: the terms of the noise objective (`numerics.noise`) of its weight, its bias and the tensors it reads;
- measured: the float model with only this layer's weight, bias and inputs rounded (and its output, if that would stay
  float without it), run on held-back samples; for 16-bit activations, with only what it reads and writes rounded.

Errors of different layers are independent, so their powers add and the layers that are worst alone are those to raise.
`target_sqnr` finds the number by bisection, each candidate quantized with one part of the samples and measured on the
other. What a measurement may cost is counted, not timed. Source: Nagel et al., arXiv:2106.08295, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from equiquant import calibrate, qdq, target
from equiquant.equalization import Ranges, find_classes, noise_terms, share_ranges
from equiquant.errors import OptionError
from equiquant.io import release_memory
from equiquant.numerics.sqnr import decibels
from equiquant.pipeline.judging import Judge
from equiquant.pipeline.solving import channel_gains, channel_statistics, quantizer_model
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe
from equiquant.target import Layer, QuantPlan

__all__ = ["Mix", "mix_precision"]

MOST_MEASURED = 64  # layers, worst by estimate first; the others are ranked behind them, by estimate
BUDGET = 5  # times what one candidate may cost, for measuring all layers
FEWEST_FEEDS, MOST_FEEDS = 2, 16  # a layer is measured on


@dataclass(frozen=True, eq=False)
class Mix:
    """Which layers have which precision.

    Attributes:
        recipe: The recipe with the choice written out as `nodes_to_exclude` and `nodes_to_int16`.
        reasons: Node name to the reason it stays float, for the nodes chosen here.
    """

    recipe: Recipe
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Layers, those that gain most by the raise first, and their figures in dB by layer name."""

    layers: tuple[Layer, ...]
    estimated: Mapping[str, float]
    measured: Mapping[str, float]


def mix_precision(state: RunState, model: ir.Model, reference: ir.Model, ranges: Ranges | None) -> Mix:
    """Choose the layers that are raised, and describe the choice in the report.

    Args:
        state: The run; its recipe says how many layers, or what to reach.
        model: The model that will be quantized; only read.
        reference: The float model to be true to.
        ranges: Ranges chosen with the scales.

    Raises:
        OptionError: More layers are asked for than there are, or `target_sqnr` is out of reach.
    """
    recipe = state.recipe
    if not recipe.mixes:
        return Mix(recipe)
    with state.stages("mix"):
        survey = target.survey(model, recipe)
        layers = target.layers(model, survey.nodes, {name for g in survey.groups for name in g.members})
        _check_counts(recipe, len(layers))
        judge = Judge(reference, state.stream, recipe)
        scale = _Scale(state, model, ranges, judge, survey, layers)
        to_float = scale.rank("float") if recipe.raise_to == "float" and not _only_int16(recipe) else None
        to_int16 = scale.rank("int16") if recipe.raises_to_int16 else None

        def measure(mix: Mix) -> float:
            result = judge.sqnr_db(model, ranges, mix.recipe)
            release_memory()
            return result

        before = measure(_resolved(recipe, (), ()))
        if recipe.target_sqnr is None:
            kept = _first(to_float, recipe.keep_float)
            wide = _first(to_int16, recipe.int16, besides=kept)
            mix = _resolved(recipe, kept, wide)
            after = measure(mix)
            if after <= before:
                state.warn(
                    f"Raising {len(kept) + len(wide)} of {len(layers)} layers does not help: {before:.1f} dB without,"
                    f" {after:.1f} dB with them, on held-back samples. Other rounding is what limits this model."
                )
        else:
            kept, wide, after = _reach(recipe, to_float or to_int16, before, measure)
            mix = _resolved(recipe, kept, wide)
        state.mixed_precision = _described(layers, kept, wide, to_float, to_int16) | {
            "sqnr_before_db": before,
            "sqnr_db": after,
        }
    return mix


def _only_int16(recipe: Recipe) -> bool:
    return recipe.target_sqnr is None and not recipe.keep_float


def _check_counts(recipe: Recipe, known: int) -> None:
    """Refuse numbers of layers that this model does not have."""
    wanted = recipe.keep_float + recipe.int16
    if recipe.keep_float and recipe.keep_float >= known:
        raise OptionError(
            f"keep_float={recipe.keep_float} would leave nothing to quantize: the options leave {known} layers that can"
            " be quantized. Ask for fewer."
        )
    if wanted > known:
        asked = f"int16={recipe.int16}" + (f" and keep_float={recipe.keep_float}" if recipe.keep_float else "")
        raise OptionError(f"{asked}: the options leave {known} layers that can be quantized. Ask for fewer.")


def _resolved(recipe: Recipe, kept: Sequence[Layer], wide: Sequence[Layer]) -> Mix:
    """Return the recipe that names the chosen layers."""
    reason = "among the layers whose rounding does most harm (mixed precision)"
    nodes = [name for layer in kept for name in layer.nodes]
    resolved = recipe.replace(
        keep_float=0,
        int16=0,
        target_sqnr=None,
        raise_to="float",
        nodes_to_exclude=(*recipe.nodes_to_exclude, *nodes),
        nodes_to_int16=(*recipe.nodes_to_int16, *(layer.name for layer in wide)),
    )
    return Mix(resolved, dict.fromkeys(nodes, reason))


def _first(ranking: _Ranking | None, count: int, besides: Sequence[Layer] = ()) -> tuple[Layer, ...]:
    return () if ranking is None else tuple(layer for layer in ranking.layers if layer not in besides)[:count]


def _reach(
    recipe: Recipe, ranking: _Ranking | None, before: float, measure: Callable[[Mix], float]
) -> tuple[tuple[Layer, ...], tuple[Layer, ...], float]:
    """Return the layers to leave float, those for 16 bits, and the dB reached, for the fewest that reach the target."""
    assert ranking is not None
    assert recipe.target_sqnr is not None
    floats = recipe.raise_to == "float"

    def split(count: int) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
        chosen = ranking.layers[:count]
        return (chosen, ()) if floats else ((), chosen)

    most = len(ranking.layers) - floats  # something must be left to quantize
    if before >= recipe.target_sqnr:
        return (), (), before
    reached = {most: measure(_resolved(recipe, *split(most)))}
    if reached[most] < recipe.target_sqnr:
        raised = f"{most} of {len(ranking.layers)} layers float" if floats else "16-bit activations in every layer"
        hint = "Ask for less." if floats else "Ask for less, or use raise_to='float'."
        raise OptionError(
            f"target_sqnr={recipe.target_sqnr} is out of reach: with {raised}, {reached[most]:.1f} dB are left on"
            f" held-back samples. {hint}"
        )
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        reached[middle] = measure(_resolved(recipe, *split(middle)))
        low, high = (low, middle) if reached[middle] >= recipe.target_sqnr else (middle, high)
    return *split(high), reached[high]


class _Scale:
    """Weighs the layers: the noise each adds, estimated for all and measured for the worst."""

    def __init__(
        self,
        state: RunState,
        model: ir.Model,
        ranges: Ranges | None,
        judge: Judge,
        survey: target.Survey,
        layers: Sequence[Layer],
    ) -> None:
        self._model, self._judge, self._layers, self._progress = model, judge, layers, state.progress
        stats = calibrate.collect(
            model, judge.fitted, target.missing(survey, ranges, synthetic=judge.fitted.synthetic), state.recipe
        )
        self._plan = target.choose(model, survey, stats, state.recipe, ranges)
        self._noise = self._estimate(state.recipe, survey)
        count = BUDGET * judge.affordable // max(1, min(len(layers), MOST_MEASURED))
        self._feeds = max(FEWEST_FEEDS, min(MOST_FEEDS, count))

    def _estimate(self, recipe: Recipe, survey: target.Survey) -> dict[tuple[str, str], float]:
        """Return noise over signal by (kind, name) of every term of the objective, as the model is now."""
        classes = find_classes(self._model)
        seen = channel_statistics(recipe, self._model, classes, survey.calibrated, self._judge.fitted)
        quantizer = quantizer_model(survey, bias_corrected=recipe.bias_correction)
        gains = channel_gains(self._model, classes, seen.figures, quantizer, self._judge.fitted, self._judge.affordable)
        z = np.zeros(classes.count)
        own = noise_terms(classes, seen.figures, gains, quantizer, seen.sketches)
        terms = share_ranges(own, quantizer.shared)
        return {(term.kind, term.name): term.exact(z) for term in terms}

    def rank(self, precision: str) -> _Ranking:
        """Return the layers by what raising them to `float` or `int16` would gain."""
        estimated = {layer.name: self._estimated(layer, precision) for layer in self._layers}
        order = sorted(self._layers, key=lambda layer: -estimated[layer.name])
        measured: dict[str, float] = {}
        for index, layer in enumerate(order[:MOST_MEASURED]):
            self._progress(f"weigh layers for {precision}", index, min(len(order), MOST_MEASURED))
            measured[layer.name] = self._measured(layer, precision)
        first = sorted(order[:MOST_MEASURED], key=lambda layer: measured[layer.name])
        in_db = {name: decibels(1.0, noise) for name, noise in estimated.items()}
        return _Ranking((*first, *order[MOST_MEASURED:]), in_db, measured)

    def _estimated(self, layer: Layer, precision: str) -> float:
        keys = [("activation", name) for name in _rounded(layer, precision)]
        if precision == "float":
            keys += [("weight", layer.name), ("bias", layer.name)]
        return sum(self._noise.get(key, 0.0) for key in keys)

    def _measured(self, layer: Layer, precision: str) -> float:
        whole = self._plan
        names = _rounded(layer, precision)
        activations = {name: whole.activations[name] for name in names if name in whole.activations}
        if precision == "float":
            constants = {key: params for key, params in whole.constants.items() if key[0] == layer.name}
            part = QuantPlan(activations, constants, layer.nodes, {}, whole.grids)
        else:
            part = QuantPlan(activations, {}, whole.nodes, {})
        rounded = self._model.clone()
        qdq.insert(rounded, part)
        return self._judge.float_sqnr_db(rounded, self._feeds)


def _rounded(layer: Layer, precision: str) -> tuple[str, ...]:
    """Return the tensors whose rounding the raise takes away: all its own, or to float what it alone makes round."""
    return (*layer.inputs, *(layer.handed_out if precision == "float" else layer.outputs))


def _described(
    layers: Sequence[Layer],
    kept: Sequence[Layer],
    wide: Sequence[Layer],
    to_float: _Ranking | None,
    to_int16: _Ranking | None,
) -> dict[str, Any]:
    """Return the report's section: every layer in graph order, and what the choice costs."""
    total = sum(layer.multiplications for layer in layers)
    weights = sum(layer.weights for layer in layers)
    rows = []
    for layer in layers:
        row: dict[str, Any] = {
            "layer": layer.name,
            "op_type": layer.op_type,
            "precision": "float" if layer in kept else "int16" if layer in wide else "int8",
            "multiplications": layer.multiplications,
            "weights": layer.weights,
        }
        for name, ranking in (("float", to_float), ("int16", to_int16)):
            if ranking is not None:
                row[f"estimated_{name}_db"] = ranking.estimated[layer.name]
                row[f"measured_{name}_db"] = ranking.measured.get(layer.name)
        rows.append(row)
    share = {
        name: sum(layer.multiplications for layer in chosen) / total if total else 0.0
        for name, chosen in (("float", kept), ("int16", wide))
    }
    stored = sum(layer.weights for layer in kept)
    return {
        "layers": rows,
        "float": [layer.name for layer in kept],
        "int16": [layer.name for layer in wide],
        "share_of_multiplications": share,
        "share_of_weights_float": stored / weights if weights else 0.0,
        "extra_bytes": 3 * stored,  # four bytes a weight instead of one
    }
