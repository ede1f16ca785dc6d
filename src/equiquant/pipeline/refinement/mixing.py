"""Mixed precision: which layers to raise to 16 bits or leave float: those whose rounding does most harm (`weighing`).

`target_sqnr` finds the number by bisection, each candidate quantized with one part of the samples and measured on the
other, refined where that may decide. It is not reached while one of several decisions is far below it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from equiquant import target
from equiquant.calibrate.data.feeds import batch_size
from equiquant.errors import DataError, OptionError
from equiquant.io import release_memory
from equiquant.numerics.affine import INT_TYPES
from equiquant.numerics.statistics.sqnr import mean_noise_db
from equiquant.pipeline.measuring.few_judges import few_judges
from equiquant.pipeline.measuring.judging import Judge
from equiquant.pipeline.refinement.refining import original_of, refinements
from equiquant.pipeline.refinement.weighing import Ranking, Weighing
from equiquant.pipeline.scales.equalizing import Equalized
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe
from equiquant.refine import Refinement, layers_of
from equiquant.report.mixing import measured_on
from equiquant.target import Layer, Survey

__all__ = ["Mix", "mix_precision"]

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
        layers = target.layers(model, survey.nodes, survey.tensors)
        _check_counts(recipe, len(layers))
        judge = Judge(reference, state.stream, recipe, mean_noise_db)
        judges = sum(batch_size(feed) for feed in judge.held)
        inputs = {"made_up": state.stream.synthetic, "held": judge.rest is not None, "judges": judges}
        own = judge if equalized.factors is None else Judge(model, state.stream, recipe, mean_noise_db)
        weighing = Weighing(state, model, ranges, own, survey, layers)
        to_float = weighing.rank("float") if recipe.raise_to == "float" and not _only_int16(recipe) else None
        to_int16 = weighing.rank("int16") if recipe.raises_to_int16 else None

        refinable, _ = layers_of(model, weighing.plan)
        original = original_of(state, reference, equalized, refinable, weighing.plan)

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
                    f" {after:.1f} dB with them, on {measured_on(inputs)}. Other rounding is what limits this model."
                )
        else:
            tried, _ = refinements(state, refinable)
            search = _Search(recipe, to_float or to_int16, measure, next(reversed(tried.values()), None))
            before = search.before
            kept, wide, after = search.fewest(measured_on(inputs))
            mix = _resolved(recipe, kept, wide)
            if not state.stream.synthetic and (doubt := _doubt(judge, judges)):
                state.warn(doubt)
        raised = target.survey(model, mix.recipe)
        state.decisions = [d for d in state.decisions if d.rule != "input_step" or d.where not in raised.wide]
        sixteen = _sixteen(model, raised)
        named = _sixteen(model, survey) & sixteen if recipe.nodes_to_int16 else set()
        wide = (*wide, *(layer for layer in layers if layer.name in named and layer not in wide))
        state.mixed_precision = _described(recipe, layers, kept, wide, sixteen, (to_float, to_int16)) | {
            "sqnr_before_db": before,
            "sqnr_db": after,
            **inputs,
        }
    return mix


def _doubt(judge: Judge, judges: int) -> str:
    """Return the warning that few samples say that the target is reached, empty where there are enough."""
    told = few_judges("target_sqnr was judged", "the result", judges, apart=judge.rest is not None)
    if not told:
        return ""
    if judge.rest is None:
        return f"{told} Give more samples, one at a time; half of them judge."
    if len(judge.rest) > len(judge.held):
        return f"{told} Of a network as large as this no more are measured: compare it on further samples."
    return f"{told} Give more samples; half of them judge."


def _sixteen(model: ir.Model, survey: Survey) -> set[str]:
    """Return the layers that read and write 16 bits alone, be it for the sake of their neighbours."""
    found = target.layers(model, survey.nodes, survey.tensors)
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


def _first(ranking: Ranking | None, count: int, besides: Sequence[Layer] = ()) -> tuple[Layer, ...]:
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
        ranking: Ranking | None,
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


def _described(
    recipe: Recipe,
    layers: Sequence[Layer],
    kept: Sequence[Layer],
    wide: Sequence[Layer],
    sixteen: Collection[str],
    rankings: tuple[Ranking | None, Ranking | None],
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
