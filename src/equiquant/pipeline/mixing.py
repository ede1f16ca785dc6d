"""Mixed precision: how much harm each layer's rounding does, and which layers to raise to 16 bits or leave float.

Two figures a layer, each the signal-to-noise ratio of the network's decisions if that layer alone were rounded:

- estimated: the terms of the noise objective (`numerics.noise`) of its weight, its bias and the tensors it reads;
- measured: the float model with only this layer's weight, bias and inputs rounded (and its output, if that would stay
  float without it), run on held-back samples; for 16-bit activations, with only what it reads and writes rounded. What
  changed the function on purpose is no layer's harm and would drown it: this is against the model that is quantized.

Of several decisions the figure is that of their mean noise over signal, near the worst one's: a layer that reaches only
one of them is weighed by that one, and `target_sqnr` is not reached while one is far below it.

Errors of different layers are independent, so their powers add and the layers that are worst alone are those to raise.
`target_sqnr` finds the number by bisection, each candidate quantized with one part of the samples and measured on the
other, refined where that may decide. What a measurement may cost is counted, not timed.
Source: Nagel et al., arXiv:2106.08295, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from equiquant import calibrate, qdq, target
from equiquant.equalization import Ranges, find_classes, noise_terms, share_ranges
from equiquant.errors import DataError, OptionError
from equiquant.io import release_memory
from equiquant.numerics.affine import INT_TYPES
from equiquant.numerics.sqnr import decibels, mean_noise_db
from equiquant.pipeline.equalizing import Equalized
from equiquant.pipeline.judging import Judge
from equiquant.pipeline.refining import original_of, refinements
from equiquant.pipeline.solving import channel_gains, channel_statistics, quantizer_model
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe
from equiquant.refine import Refinement, layers_of
from equiquant.target import Layer, QuantPlan

__all__ = ["Mix", "mix_precision"]

MOST_MEASURED = 64  # layers, worst by estimate first; the others are ranked behind them, by estimate
BUDGET = 5  # times what one candidate may cost, for measuring all layers
FEWEST_FEEDS, MOST_FEEDS = 2, 16  # a layer is measured on
SLACK_DB = 3.0  # more than with no layer raised, that refinement may gain with some


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


def mix_precision(state: RunState, reference: ir.Model, equalized: Equalized) -> Mix:
    """Choose the layers that are raised, and describe the choice in the report.

    Args:
        state: The run; its recipe says how many layers, or what to reach.
        reference: The float model to be true to: the original where its function was changed.
        equalized: The float model that will be quantized; only read.

    Raises:
        OptionError: More layers are asked for than there are, or raising all does not reach `target_sqnr`.
        DataError: There are only statistics of samples, and `target_sqnr` needs the samples.
    """
    recipe, model, ranges = state.recipe, equalized.model, equalized.ranges
    if not recipe.mixes:
        return Mix(recipe)
    if state.stream.synthetic and state.recalled is not None and not state.recalled.synthetic:
        if recipe.target_sqnr is not None:
            raise DataError(
                "target_sqnr is measured on samples, and a file of statistics holds none. Give the data too."
            )
        state.warn(
            "The layers to raise are chosen on made-up inputs: a file of statistics holds no samples. Give the data."
        )
    with state.stages("mix"):
        survey = target.survey(model, recipe)
        layers = target.layers(model, survey.nodes, {name for g in survey.groups for name in g.members})
        _check_counts(recipe, len(layers))
        judge = Judge(reference, state.stream, recipe, mean_noise_db)
        own = judge if equalized.factors is None else Judge(model, state.stream, recipe, mean_noise_db)
        scale = _Scale(state, model, ranges, own, survey, layers)
        to_float = scale.rank("float") if recipe.raise_to == "float" and not _only_int16(recipe) else None
        to_int16 = scale.rank("int16") if recipe.raises_to_int16 else None

        refinable, _ = layers_of(model, scale.plan)
        original = original_of(reference, equalized, refinable)

        def measure(mix: Mix, refinement: Refinement | None = None) -> float:
            result = judge.sqnr_db(model, ranges, mix.recipe, original, refinement)
            release_memory()
            return result

        if recipe.target_sqnr is None:
            before = measure(_resolved(recipe, (), ()))
            kept = _first(to_float, recipe.keep_float)
            wide = _first(to_int16, recipe.int16, besides=kept)
            mix = _resolved(recipe, kept, wide)
            after = measure(mix)
            if after <= before:
                state.warn(
                    f"Raising {len(kept) + len(wide)} of {len(layers)} layers does not help: {before:.1f} dB without,"
                    f" {after:.1f} dB with them, on {_measured_on(state, judge)}. Other rounding is what limits this"
                    " model."
                )
        else:
            tried, _ = refinements(state, refinable)
            search = _Search(recipe, to_float or to_int16, measure, next(reversed(tried.values()), None))
            before = search.before
            kept, wide, after = search.fewest(_measured_on(state, judge))
            mix = _resolved(recipe, kept, wide)
        sixteen = _sixteen(model, mix.recipe)
        named = _sixteen(model, recipe) & sixteen if recipe.nodes_to_int16 else set()
        wide = (*wide, *(layer for layer in layers if layer.name in named and layer not in wide))
        state.mixed_precision = _described(recipe, layers, kept, wide, sixteen, (to_float, to_int16)) | {
            "sqnr_before_db": before,
            "sqnr_db": after,
            "made_up": state.stream.synthetic,
            "held": judge.rest is not None,
        }
    return mix


def _measured_on(state: RunState, judge: Judge) -> str:
    found = "held-back samples" if judge.rest is not None else "the calibration samples"
    return "made-up inputs" if state.stream.synthetic else found


def _sixteen(model: ir.Model, recipe: Recipe) -> set[str]:
    """Return the layers that read and write 16 bits alone, be it for the sake of their neighbours."""
    survey = target.survey(model, recipe)
    found = target.layers(model, survey.nodes, {name for g in survey.groups for name in g.members})
    rounded = {layer.name: (*layer.inputs, *layer.outputs) for layer in found}
    return {name for name, tensors in rounded.items() if tensors and survey.wide.issuperset(tensors)}


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


class _Search:
    """Looks for the fewest layers whose raise reaches the target.

    Args:
        recipe: Says what to reach, and what layers are raised to.
        ranking: The layers.
        measure: Returns the dB of a mix; given a refinement, after it.
        refinement: What will be done to the result; None for nothing.

    Attributes:
        before: The dB with no layer raised, refined if that is better.
    """

    def __init__(
        self,
        recipe: Recipe,
        ranking: _Ranking | None,
        measure: Callable[[Mix, Refinement | None], float],
        refinement: Refinement | None,
    ) -> None:
        assert ranking is not None
        assert recipe.target_sqnr is not None
        self._recipe, self._layers, self._target = recipe, ranking.layers, recipe.target_sqnr
        self._measure, self._refinement = measure, refinement
        self._floats = recipe.raise_to == "float"
        self._measured: dict[tuple[int, Refinement | None], float] = {}
        self.before = max(self._db(0), self._refined(0))
        self._gain = self.before - self._db(0)

    def fewest(self, measured_on: str) -> tuple[tuple[Layer, ...], tuple[Layer, ...], float]:
        """Return the layers to leave float, those for 16 bits, and the dB reached, refined if that is better.

        Args:
            measured_on: What the dB are of, for the error.

        Raises:
            OptionError: Raising all layers, of float all but one, does not reach the target; fewer are not tried then.
        """
        most = max(0, len(self._layers) - self._floats)  # something must be left to quantize
        if self.before >= self._target:
            return (), (), self.before
        reached = self._reached(most)
        if reached < self._target:
            reached = max(reached, self._refined(most))
        if reached < self._target:
            raised = (
                f"{most} of {len(self._layers)} layers float" if self._floats else "16-bit activations in every layer"
            )
            if not most:
                raised = "no layer that can be raised"
            other = self._other_precision()
            raise OptionError(
                f"target_sqnr={self._target} is out of reach: with {raised}, {reached:.1f} dB are left on"
                f" {measured_on}, with none raised {self.before:.1f}. Ask for less"
                + (f", or try raise_to='{other}'." if other else ".")
            )
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._reached(middle) >= self._target else (middle, high)
        return *self._split(high), max(self._db(high), self._refined(high))

    def _other_precision(self) -> str:
        """Return what else layers could be raised to, empty if there is nothing: float leaves one to quantize."""
        if self._floats:
            return "int16" if self._layers and INT_TYPES[self._recipe.activation_type].bits < 16 else ""
        return "float" if len(self._layers) > 1 else ""

    def _split(self, count: int) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
        chosen = self._layers[:count]
        return (chosen, ()) if self._floats else ((), chosen)

    def _db(self, count: int, refinement: Refinement | None = None) -> float:
        """Return the dB of a number of layers, measured once."""
        key = count, refinement
        if key not in self._measured:
            self._measured[key] = self._measure(_resolved(self._recipe, *self._split(count)), refinement)
        return self._measured[key]

    def _refined(self, count: int) -> float:
        return -np.inf if self._refinement is None else self._db(count, self._refinement)

    def _reached(self, count: int) -> float:
        """Return the dB of a number of layers, refined only where that decides: it takes its time."""
        plain = self._db(count)
        near = plain < self._target <= plain + self._gain + SLACK_DB
        return max(plain, self._refined(count)) if near else plain


class _Scale:
    """Weighs the layers: the noise each adds, estimated for all and measured for the worst.

    Attributes:
        plan: How the model would be quantized with no layer raised.
    """

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
        self.plan = target.choose(model, survey, stats, state.recipe, ranges)
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
        whole = self.plan
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
    recipe: Recipe,
    layers: Sequence[Layer],
    kept: Sequence[Layer],
    wide: Sequence[Layer],
    sixteen: Collection[str],
    rankings: tuple[_Ranking | None, _Ranking | None],
) -> dict[str, Any]:
    """Return the report's section: every layer in graph order, and what the choice costs.

    Args:
        recipe: Says how wide the activations of the others are.
        layers: All of them.
        kept: Those chosen to stay float.
        wide: Those for 16-bit activations, chosen or named.
        sixteen: Names of those that have these, be it for the sake of their neighbours.
        rankings: By what float would gain, and by what 16 bits would.
    """
    total = sum(layer.multiplications for layer in layers)
    weights = sum(layer.weights for layer in layers)
    usual = f"int{INT_TYPES[recipe.activation_type].bits}"
    rows = []
    for layer in layers:
        row: dict[str, Any] = {
            "layer": layer.name,
            "op_type": layer.op_type,
            "precision": "float" if layer in kept else "int16" if layer.name in sixteen else usual,
            "multiplications": layer.multiplications,
            "weights": layer.weights,
        }
        for name, ranking in zip(("float", "int16"), rankings, strict=True):
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
