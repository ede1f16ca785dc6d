"""How much harm each layer's rounding does.

Two figures a layer, each the signal-to-noise ratio of the network's decisions if that layer alone were rounded:

- estimated: the terms of the noise objective (`scales.noise`) of its weight, its bias and the tensors it reads;
- measured: the float model with only this layer's weight, bias and inputs rounded (and its output, if that would stay
  float without it), run on held-back samples; for 16-bit activations, with only what it reads and writes rounded. What
  changed the function on purpose is no layer's harm and would drown it: this is against the model that is quantized.

Of several decisions the figure is that of their mean noise over signal, near the worst one's: a layer that reaches only
one of them is weighed by that one.

Errors of different layers are independent, so their powers add and the layers that are worst alone are those to raise.
What a measurement may cost is counted, not timed.
Source: Nagel et al., arXiv:2106.08295, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from equiquant import calibrate, qdq, target
from equiquant.equalization import Ranges, find_classes, noise_terms, share_ranges
from equiquant.numerics.statistics.sqnr import decibels
from equiquant.pipeline.measuring.judging import Judge
from equiquant.pipeline.scales.solving import channel_gains, channel_statistics, quantizer_model
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe
from equiquant.target import Layer, QuantPlan

__all__ = ["Ranking", "Weighing"]

MOST_MEASURED = 64  # layers, worst by estimate first; the others are ranked behind them, by estimate
BUDGET = 5  # times what one candidate may cost, for measuring all layers
FEWEST_FEEDS, MOST_FEEDS = 2, 16  # a layer is measured on


@dataclass(frozen=True, eq=False)
class Ranking:
    """Layers, those that gain most by the raise first, and their figures in dB by layer name."""

    layers: tuple[Layer, ...]
    estimated: Mapping[str, float]
    measured: Mapping[str, float]


class Weighing:
    """Weighs the layers: the noise each adds, estimated for all and measured for the worst.

    Args:
        state: The run.
        model: The float model that will be quantized; only read.
        ranges: Those chosen with its scales; None for none.
        judge: What the layers are measured by: of this model.
        survey: What of it is quantized.
        layers: Its layers.

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

    def rank(self, precision: str) -> Ranking:
        """Return the layers by what raising them to `float` or `int16` would gain."""
        estimated = {layer.name: self._estimated(layer, precision) for layer in self._layers}
        order = sorted(self._layers, key=lambda layer: -estimated[layer.name])
        measured: dict[str, float] = {}
        for index, layer in enumerate(order[:MOST_MEASURED]):
            self._progress(f"weigh layers for {precision}", index, min(len(order), MOST_MEASURED))
            measured[layer.name] = self._measured(layer, precision)
        first = sorted(order[:MOST_MEASURED], key=lambda layer: measured[layer.name])
        in_db = {name: decibels(1.0, noise) for name, noise in estimated.items()}
        return Ranking((*first, *order[MOST_MEASURED:]), in_db, measured)

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
